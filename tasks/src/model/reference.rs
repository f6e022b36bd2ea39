//! The model as plainly as it can be written: candle's autograd in f64, one sequence at a time.
//!
//! It is the specification that the fast core is tested against, and far too slow for anything else. It keeps to
//! candle's stock operations: the fused ones (`rms_norm`, `softmax_last_dim`, `rope`) silently cut the gradient.
//! Source: recipe.md 1; transformers `modeling_llama.py`.

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Result, Tensor, Var};

use super::config::Config;
use super::layout::Layout;
use super::rope::inverse_frequencies;
use super::weights::Model;

/// A model as differentiable tensors.
pub struct Reference {
    config: Config,
    layout: Layout,
    variables: BTreeMap<String, Var>,
}

impl Reference {
    pub fn new(model: &Model) -> Result<Self> {
        let mut variables = BTreeMap::new();
        for tensor in model.layout.tensors() {
            let values = model.weights[tensor.range.clone()].to_vec();
            let values = Tensor::from_vec(values, tensor.shape.clone(), &Device::Cpu)?;
            let variable = Var::from_tensor(&values.to_dtype(DType::F64)?)?;
            variables.insert(tensor.name.clone(), variable);
        }
        Ok(Self {
            config: model.config.clone(),
            layout: model.layout.clone(),
            variables,
        })
    }

    fn weight(&self, name: &str) -> &Tensor {
        self.variables[name].as_tensor()
    }

    fn layer_weight(&self, layer: usize, name: &str) -> &Tensor {
        self.weight(&format!("model.layers.{layer}.{name}.weight"))
    }

    /// `[T, d]` after the final norm.
    pub fn hidden(&self, tokens: &[u32]) -> Result<Tensor> {
        let tokens = Tensor::new(tokens, &Device::Cpu)?;
        let mut x = self
            .weight("model.embed_tokens.weight")
            .index_select(&tokens, 0)?;
        for layer in 0..self.config.num_hidden_layers {
            let normed = self.norm(&x, self.layer_weight(layer, "input_layernorm"))?;
            x = (x + self.attention(layer, &normed)?)?;
            let normed = self.norm(&x, self.layer_weight(layer, "post_attention_layernorm"))?;
            x = (x + self.feed_forward(layer, &normed)?)?;
        }
        self.norm(&x, self.weight("model.norm.weight"))
    }

    /// `[T, V]`, or `[T, 1]` of a reward model.
    pub fn logits(&self, tokens: &[u32]) -> Result<Tensor> {
        let head = [
            "lm_head.weight",
            "score.weight",
            "model.embed_tokens.weight",
        ]
        .into_iter()
        .find_map(|name| self.variables.get(name))
        .expect("every model has an embedding");
        self.hidden(tokens)?.matmul(&head.as_tensor().t()?)
    }

    /// `ln p(target)` of each position, `[T]`.
    pub fn log_probabilities(&self, tokens: &[u32], targets: &[u32]) -> Result<Tensor> {
        let logits = self.logits(tokens)?;
        let targets = Tensor::new(targets, &Device::Cpu)?.unsqueeze(1)?;
        let chosen = logits.gather(&targets, 1)?.squeeze(1)?;
        let largest = logits.max_keepdim(D::Minus1)?.detach();
        let sum = logits.broadcast_sub(&largest)?.exp()?.sum(D::Minus1)?;
        chosen - (sum.log()? + largest.squeeze(1)?)?
    }

    /// The gradient of a scalar, in the order of the arena.
    pub fn gradient(&self, scalar: &Tensor) -> Result<Vec<f64>> {
        let grads = scalar.backward()?;
        let mut all = Vec::with_capacity(self.layout.len());
        for tensor in self.layout.tensors() {
            match grads.get(self.weight(&tensor.name)) {
                Some(grad) => all.extend(grad.flatten_all()?.to_vec1::<f64>()?),
                None => all.resize(all.len() + tensor.range.len(), 0.0),
            }
        }
        Ok(all)
    }

    fn norm(&self, x: &Tensor, w: &Tensor) -> Result<Tensor> {
        let mean = (x.sqr()?.mean_keepdim(D::Minus1)? + self.config.rms_norm_eps)?;
        x.broadcast_div(&mean.sqrt()?)?.broadcast_mul(w)
    }

    fn linear(&self, x: &Tensor, layer: usize, name: &str) -> Result<Tensor> {
        x.matmul(&self.layer_weight(layer, name).t()?)
    }

    fn attention(&self, layer: usize, x: &Tensor) -> Result<Tensor> {
        let (tokens, hd) = (x.dim(0)?, self.config.head_dim);
        let q = self.linear(x, layer, "self_attn.q_proj")?;
        let k = self.linear(x, layer, "self_attn.k_proj")?;
        let v = self.linear(x, layer, "self_attn.v_proj")?;
        let mut heads = Vec::new();
        for head in 0..self.config.num_attention_heads {
            let group = head / self.config.heads_per_group();
            let q = self.rotate(&q.narrow(1, head * hd, hd)?)?;
            let k = self.rotate(&k.narrow(1, group * hd, hd)?)?;
            let v = v.narrow(1, group * hd, hd)?.contiguous()?;
            let scores = (q.matmul(&k.t()?)? / (hd as f64).sqrt())?;
            let scores = scores.broadcast_add(&causal_mask(tokens)?)?;
            heads.push(softmax(&scores)?.matmul(&v)?);
        }
        let attended = Tensor::cat(&heads, 1)?;
        self.linear(&attended, layer, "self_attn.o_proj")
    }

    fn feed_forward(&self, layer: usize, x: &Tensor) -> Result<Tensor> {
        let gate = self.linear(x, layer, "mlp.gate_proj")?.silu()?;
        let up = self.linear(x, layer, "mlp.up_proj")?;
        self.linear(&(gate * up)?, layer, "mlp.down_proj")
    }

    /// RoPE of one head `[T, hd]`.
    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let (tokens, half) = (x.dim(0)?, self.config.head_dim / 2);
        let frequencies = inverse_frequencies(
            self.config.head_dim,
            self.config.rope_theta,
            self.config.rope_scaling.as_ref(),
        );
        let angles: Vec<f64> = (0..tokens)
            .flat_map(|position| frequencies.iter().map(move |f| position as f64 * f))
            .collect();
        let angles = Tensor::from_vec(angles, (tokens, half), &Device::Cpu)?;
        let (cos, sin) = (angles.cos()?, angles.sin()?);
        let (a, b) = (x.narrow(1, 0, half)?, x.narrow(1, half, half)?);
        let first = ((&a * &cos)? - (&b * &sin)?)?;
        let second = ((&b * &cos)? + (&a * &sin)?)?;
        Tensor::cat(&[first, second], 1)
    }
}

fn causal_mask(tokens: usize) -> Result<Tensor> {
    let mask: Vec<f64> = (0..tokens * tokens)
        .map(|at| {
            if at % tokens <= at / tokens {
                0.0
            } else {
                f64::NEG_INFINITY
            }
        })
        .collect();
    Tensor::from_vec(mask, (tokens, tokens), &Device::Cpu)
}

fn softmax(x: &Tensor) -> Result<Tensor> {
    let exponentials = x
        .broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?
        .exp()?;
    exponentials.broadcast_div(&exponentials.sum_keepdim(D::Minus1)?)
}
