//! Which old layer each layer of a deeper model copies.
//!
//! Sources: SOLAR (arXiv 2312.15166), LLaMA-Pro block expansion, mergekit `passthrough`. Knows no weights.

/// New layer `j` copies old layer `source[j]`; where `silent[j]`, its residual outputs (`o_proj`, `down_proj`) are
/// zero, so that the layer changes nothing until it is trained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerMap {
    pub source: Vec<usize>,
    pub silent: Vec<bool>,
}

impl LayerMap {
    /// Copies of the listed layers of an `n`-layer model, in this order.
    pub fn explicit(n: usize, source: &[usize]) -> Result<Self, String> {
        if source.is_empty() {
            return Err("the layer map is empty".to_owned());
        }
        if let Some(layer) = source.iter().find(|layer| **layer >= n) {
            return Err(format!(
                "layer {layer} does not exist: the model has {n} layers, 0 to {}",
                n - 1
            ));
        }
        Ok(Self {
            source: source.to_vec(),
            silent: vec![false; source.len()],
        })
    }

    /// SOLAR: the model without its last `m` layers, then the model without its first `m`; 2(n − m) layers.
    pub fn solar(n: usize, m: usize) -> Result<Self, String> {
        if m >= n {
            return Err(format!(
                "dropping {m} of {n} layers from each copy leaves nothing: `solar` is at most {}",
                n - 1
            ));
        }
        let source: Vec<usize> = (0..n - m).chain(m..n).collect();
        Self::explicit(n, &source)
    }

    /// SOLAR with the `m` that reaches `target` layers; an odd target cannot be reached and is not rounded.
    pub fn solar_to(n: usize, target: usize) -> Result<Self, String> {
        if target % 2 == 1 {
            return Err(format!(
                "two equal copies cannot make {target} layers: their number is even"
            ));
        }
        if target == 0 || target > 2 * n {
            return Err(format!(
                "two copies of {n} layers make 2 to {} layers, not {target}",
                2 * n
            ));
        }
        Self::solar(n, n - target / 2)
    }

    /// Every layer once, and a silent copy behind each of the `chosen`.
    pub fn identity_expand(n: usize, chosen: &[usize]) -> Result<Self, String> {
        Self::explicit(n, chosen)?;
        if !chosen.is_sorted_by(|a, b| a < b) {
            return Err("`identity_expand` lists layers once each, ascending".to_owned());
        }
        let mut map = Self {
            source: Vec::new(),
            silent: Vec::new(),
        };
        for layer in 0..n {
            map.push(layer, false);
            if chosen.contains(&layer) {
                map.push(layer, true);
            }
        }
        Ok(map)
    }

    /// Number of layers of the new model.
    pub fn len(&self) -> usize {
        self.source.len()
    }

    pub fn is_empty(&self) -> bool {
        self.source.is_empty()
    }

    fn push(&mut self, source: usize, silent: bool) {
        self.source.push(source);
        self.silent.push(silent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kanana_reaches_forty_layers_with_m_twelve() {
        assert_eq!(LayerMap::solar_to(32, 40), LayerMap::solar(32, 12));
        assert_eq!(LayerMap::solar(32, 12).unwrap().len(), 40);
    }

    #[test]
    fn impossible_maps_say_why() {
        assert!(LayerMap::solar_to(4, 7).unwrap_err().contains("even"));
        assert!(LayerMap::solar_to(4, 10).unwrap_err().contains("2 to 8"));
        assert!(LayerMap::solar_to(4, 0).is_err());
        assert!(LayerMap::solar(4, 4).unwrap_err().contains("at most 3"));
        assert!(
            LayerMap::explicit(4, &[0, 4])
                .unwrap_err()
                .contains("layer 4")
        );
        assert!(LayerMap::explicit(4, &[]).is_err());
        assert!(LayerMap::identity_expand(4, &[2, 1]).is_err());
    }
}
