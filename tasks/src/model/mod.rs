//! Llama: one architecture, one training core. The only place that names candle, gemm or cudarc.
