//! SwiGLU over rows of `[gate | up]`: `act = silu(gate) · up` (Shazeer 2020).

use super::isa::kernels;
use super::row::exp;

/// `act [n, f]` from `gate_up [n, 2f]`.
pub fn forward(act: &mut [f32], gate_up: &[f32], f: usize) {
    let rows = act.chunks_exact_mut(f).zip(gate_up.chunks_exact(2 * f));
    for (act, gate_up) in rows {
        let (gate, up) = gate_up.split_at(f);
        forward_row(act, gate, up);
    }
}

/// Replaces `gate_up` by its gradient and makes `act` again, from the gradient of `act`.
pub fn backward(gate_up: &mut [f32], act: &mut [f32], d_act: &[f32], f: usize) {
    let rows = gate_up.chunks_exact_mut(2 * f).zip(act.chunks_exact_mut(f));
    for ((gate_up, act), d_act) in rows.zip(d_act.chunks_exact(f)) {
        let (gate, up) = gate_up.split_at_mut(f);
        backward_row(gate, up, act, d_act);
    }
}

kernels! {
    fn forward_row(act: &mut [f32], gate: &[f32], up: &[f32]) {
        let f = act.len();
        let (gate, up) = (&gate[..f], &up[..f]);
        for i in 0..f {
            act[i] = gate[i] / (1.0 + exp(-gate[i])) * up[i];
        }
    }
}

kernels! {
    fn backward_row(gate: &mut [f32], up: &mut [f32], act: &mut [f32], d_act: &[f32]) {
        let f = act.len();
        let (gate, up, d_act) = (&mut gate[..f], &mut up[..f], &d_act[..f]);
        for i in 0..f {
            let sigmoid = 1.0 / (1.0 + exp(-gate[i]));
            let silu = gate[i] * sigmoid;
            let slope = sigmoid * (1.0 + gate[i] * (1.0 - sigmoid));
            act[i] = silu * up[i];
            gate[i] = d_act[i] * up[i] * slope;
            up[i] = d_act[i] * silu;
        }
    }
}
