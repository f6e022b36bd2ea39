// A libcuda.so.1 that runs the kernels of this folder on the CPU (device.h), so that everything above the driver can be
// tested without a GPU: memory, arguments, launches, the whole backend. It holds the calls that kbuild makes, no more.
// Nothing that it does says anything about the speed or the compiler of a real device.
#include "../all.cu"

#include <mutex>
#include <tuple>
#include <utility>

namespace {

using Arguments = void **;

template <class... A, size_t... I> void call(void (*kernel)(A...), Arguments from, std::index_sequence<I...>) {
    kernel(*(A *)from[I]...);
}

template <class... A> std::function<void(Arguments)> callable(void (*kernel)(A...)) {
    return [kernel](Arguments from) { call(kernel, from, std::index_sequence_for<A...>{}); };
}

struct Kernel {
    const char *name;
    std::function<void(Arguments)> run;
    int shared_bytes;
};

Kernel kernels[] = {
#define ENTRY(NAME) {#NAME, callable(NAME), 48 << 10},
#include "entries.inc"
};

const int OK = 0, INVALID = 1, NO_MEMORY = 2, NOT_FOUND = 500;
const size_t MEMORY = size_t(4) << 30;

// Tests call from many threads; there is one card.
std::mutex card;

// Every allocation has its own fence before and behind it; freeing looks at both.
const size_t FENCE = 256;
const unsigned char MARK = 0xa5;
size_t used = 0;

struct Header {
    size_t bytes;
    unsigned char fence[FENCE - sizeof(size_t)];
};

void check_fences(const Header *header) {
    const unsigned char *end = (const unsigned char *)(header + 1) + header->bytes;
    for (size_t i = 0; i < sizeof header->fence; i++)
        if (header->fence[i] != MARK)
            emulate::fail("something wrote before an allocation");
    for (size_t i = 0; i < FENCE; i++)
        if (end[i] != MARK)
            emulate::fail("something wrote behind an allocation");
}

} // namespace

extern "C" {

int cuInit(unsigned) {
    emulate::backwards = std::getenv("KBUILD_EMULATE_BACKWARDS") != nullptr;
    return OK;
}

int cuDriverGetVersion(int *version) { return *version = 13000, OK; }
int cuDeviceGetCount(int *count) { return *count = 1, OK; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, ordinal == 0 ? OK : INVALID; }

int cuDeviceGetName(char *name, int size, int) {
    std::snprintf(name, size_t(size), "emulated (no GPU)");
    return OK;
}

int cuDeviceTotalMem_v2(size_t *bytes, int) { return *bytes = MEMORY, OK; }

int cuDeviceGetAttribute(int *value, int attribute, int) {
    // Compute capability, in two halves; shared memory that a block may ask for; multiprocessors.
    switch (attribute) {
    case 75:
        return *value = 8, OK;
    case 76:
        return *value = 0, OK;
    case 97:
        return *value = 227 << 10, OK;
    case 16:
        return *value = 1, OK;
    default:
        return INVALID;
    }
}

int cuDevicePrimaryCtxRetain(void **context, int) { return *context = (void *)&kernels, OK; }
int cuDevicePrimaryCtxRelease_v2(int) { return OK; }
int cuCtxSetCurrent(void *) { return OK; }
int cuCtxSynchronize() { return OK; }
int cuMemGetInfo_v2(size_t *free, size_t *total) { return *free = MEMORY - used, *total = MEMORY, OK; }

int cuMemAlloc_v2(unsigned long long *address, size_t bytes) {
    const std::lock_guard<std::mutex> held(card);
    if (used + bytes > MEMORY)
        return NO_MEMORY;
    Header *header = (Header *)std::aligned_alloc(256, (sizeof(Header) + bytes + FENCE + 255) / 256 * 256);
    if (!header)
        return NO_MEMORY;
    header->bytes = bytes;
    std::memset(header->fence, MARK, sizeof header->fence);
    // New memory holds NaN, as it may on a device.
    std::memset(header + 1, 0xff, bytes);
    std::memset((char *)(header + 1) + bytes, MARK, FENCE);
    used += bytes;
    *address = (unsigned long long)(header + 1);
    return OK;
}

int cuMemFree_v2(unsigned long long address) {
    const std::lock_guard<std::mutex> held(card);
    Header *header = (Header *)address - 1;
    check_fences(header);
    used -= header->bytes;
    std::free(header);
    return OK;
}

int cuMemcpyHtoDAsync_v2(unsigned long long to, const void *from, size_t bytes, void *) {
    return std::memcpy((void *)to, from, bytes), OK;
}

int cuMemcpyDtoHAsync_v2(void *to, unsigned long long from, size_t bytes, void *) {
    return std::memcpy(to, (const void *)from, bytes), OK;
}

int cuMemcpyDtoDAsync_v2(unsigned long long to, unsigned long long from, size_t bytes, void *) {
    return std::memmove((void *)to, (const void *)from, bytes), OK;
}

int cuMemsetD8Async(unsigned long long to, unsigned char value, size_t count, void *) {
    return std::memset((void *)to, value, count), OK;
}

int cuModuleLoadData(void **module, const void *image) {
    return *module = (void *)&kernels, image ? OK : INVALID;
}

int cuModuleUnload(void *) { return OK; }

int cuModuleGetFunction(void **function, void *, const char *name) {
    for (Kernel &kernel : kernels)
        if (!std::strcmp(kernel.name, name))
            return *function = &kernel, OK;
    return NOT_FOUND;
}

int cuFuncSetAttribute(void *function, int attribute, int value) {
    // The largest size of dynamic shared memory.
    if (attribute != 8 || value > 227 << 10)
        return INVALID;
    ((Kernel *)function)->shared_bytes = value;
    return OK;
}

int cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned by, unsigned bz,
                   unsigned shared_bytes, void *, void **arguments, void **) {
    const std::lock_guard<std::mutex> held(card);
    Kernel &kernel = *(Kernel *)function;
    if (!x || !y || y > 65535 || z != 1 || by != 1 || bz != 1 || threads > 1024 || int(shared_bytes) > kernel.shared_bytes)
        return INVALID;
    emulate::launch({x, y, 1}, threads, shared_bytes, [&] { kernel.run(arguments); });
    return OK;
}

int cuStreamCreate(void **stream, unsigned) { return *stream = (void *)&kernels, OK; }
int cuStreamDestroy_v2(void *) { return OK; }
int cuStreamSynchronize(void *) { return OK; }

int cuGetErrorName(int error, const char **name) {
    switch (error) {
    case INVALID:
        return *name = "CUDA_ERROR_INVALID_VALUE", OK;
    case NO_MEMORY:
        return *name = "CUDA_ERROR_OUT_OF_MEMORY", OK;
    case NOT_FOUND:
        return *name = "CUDA_ERROR_NOT_FOUND", OK;
    default:
        return *name = "CUDA_ERROR_UNKNOWN", OK;
    }
}
}
