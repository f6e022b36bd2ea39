//! Samples against the training forward, and on their own.

use super::decode::{PREFILL, SLOTS};
use super::ops::plain::Plain;
use super::stack::Decoding;
use super::*;

#[test]
fn greedy_decoding_agrees_with_the_training_forward() {
    for config in &shapes() {
        let model = model(config, 3);
        let prompts = sequences(config, &[1, 5, 40]);
        let options = GenerateOptions {
            max_new_tokens: 30,
            sampling: Sampling::GREEDY,
            ..Default::default()
        };
        let device = Device::cpu(1).unwrap();
        let mut core = core(&model, 1);
        for (prompt, response) in prompts
            .iter()
            .zip(generate(&model, &prompts, &options, &device).unwrap())
        {
            assert_eq!(
                (response.tokens.len(), response.finish),
                (30, Finish::Length)
            );
            let batch = Batch::of([[prompt.as_slice(), &response.tokens].concat()]);
            let rows: Vec<usize> = (prompt.len() - 1..batch.len() - 1).collect();
            core.forward_only(&batch, None).unwrap();
            let mut logp = vec![0.0; rows.len()];
            core.lm_head(&rows, false, &mut |range, logits| {
                let tokens = &response.tokens[range.clone()];
                let values = logits.read();
                for (logits, token) in values.chunks(config.vocab_size).zip(tokens) {
                    assert_eq!(sampler::argmax(logits), *token);
                }
                logp[range].copy_from_slice(&logits.log_probabilities(tokens));
            })
            .unwrap();
            for (decoded, trained) in response.log_probs.iter().zip(logp) {
                assert!((f64::from(*decoded) - trained).abs() < 1e-4);
            }
        }
    }
}

#[test]
fn a_sample_depends_on_its_prompt_alone() {
    let config = &shapes()[0];
    let model = model(config, 3);
    let prompts = sequences(config, &(1..50).collect::<Vec<_>>());
    let options = GenerateOptions {
        max_new_tokens: 12,
        samples: 3,
        stop: vec![4, 5],
        seed: 11,
        ..Default::default()
    };
    let all = generate(&model, &prompts, &options, &Device::cpu(3).unwrap()).unwrap();
    assert_eq!(all.len(), 3 * prompts.len());
    assert!(all.iter().any(|response| response.finish == Finish::Stop));
    for response in &all {
        let stopped = response
            .tokens
            .last()
            .is_some_and(|token| [4, 5].contains(token));
        assert_eq!(response.finish == Finish::Stop, stopped);
    }
    let device = Device::cpu(1).unwrap();
    for (at, prompt) in prompts.iter().enumerate().rev().step_by(7) {
        let alone = generate(&model, std::slice::from_ref(prompt), &options, &device).unwrap();
        assert_eq!(alone, all[3 * at..3 * at + 3]);
    }
    let decoder = Decoder::new(&model, &device).unwrap();
    let mut streamed = Vec::new();
    let response = decoder
        .stream(&prompts[9], &options, &mut |token| {
            streamed.push(token);
            true
        })
        .unwrap();
    assert_eq!(response, all[27]);
    assert_eq!(streamed, response.tokens);
}

#[test]
fn prompts_that_cannot_be_used_are_refused_with_a_way_out() {
    let config = &shapes()[0];
    let model = model(config, 3);
    let device = Device::cpu(1).unwrap();
    for (prompt, expected) in [
        (vec![], "is empty"),
        (vec![0; 1025], "the context is 1024"),
        (vec![37], "token 37"),
    ] {
        let error = generate(&model, &[prompt], &GenerateOptions::default(), &device).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!error.help().is_empty());
    }
    let full = generate(
        &model,
        &[vec![0; 1024]],
        &GenerateOptions::default(),
        &device,
    )
    .unwrap();
    assert!(full[0].tokens.is_empty());
}

/// A decoder over the list of operations, wherever they run.
fn listed<O: Ops>(ops: O, model: &Model) -> Decoder<'_> {
    Decoder {
        config: &model.config,
        device: Device::cpu(1).unwrap(),
        weights: Box::new(Decoding::new(ops, model)),
    }
}

/// Makes tests of a check that is generic over the operations.
macro_rules! on_the_list {
    ($($name:ident)*) => {
        $(mod $name {
            use super::*;

            #[test]
            fn plain() {
                super::$name(Plain);
            }

            #[test]
            fn cpu() {
                super::$name(Cpu::open(2).unwrap());
            }

            #[test]
            fn cuda() {
                if let Some(cuda) = cuda::tests::operations() {
                    super::$name(cuda);
                }
            }
        })*
    };
}

on_the_list! { tokens_are_those_of_the_processor company_changes_no_bit }

/// Prompts up to more than a step takes in.
fn tokens_are_those_of_the_processor<O: Ops>(ops: O) {
    for config in &shapes() {
        let model = model(config, 3);
        let prompts = sequences(config, &[1, 40, PREFILL + 10]);
        let options = GenerateOptions {
            max_new_tokens: 8,
            sampling: Sampling::GREEDY,
            ..Default::default()
        };
        let expected = generate(&model, &prompts, &options, &Device::cpu(1).unwrap()).unwrap();
        let found = listed(ops.clone(), &model);
        for (found, expected) in (found.generate(&prompts, &options).unwrap().iter()).zip(&expected)
        {
            assert_eq!(found.tokens, expected.tokens);
            for (found, expected) in found.log_probs.iter().zip(&expected.log_probs) {
                assert!((found - expected).abs() < 1e-4, "{found} {expected}");
            }
        }
    }
}

/// More requests than slots, of which some stop early.
fn company_changes_no_bit<O: Ops>(ops: O) {
    let config = &shapes()[2];
    let model = model(config, 3);
    let prompts = sequences(config, &(1..SLOTS + 8).collect::<Vec<_>>());
    let options = GenerateOptions {
        max_new_tokens: 6,
        stop: vec![4, 5, 6, 7, 8],
        seed: 11,
        ..Default::default()
    };
    let decoder = listed(ops, &model);
    let all = decoder.generate(&prompts, &options).unwrap();
    let stopped = all.iter().filter(|one| one.finish == Finish::Stop).count();
    assert!((1..prompts.len()).contains(&stopped));
    for (prompt, expected) in prompts.iter().zip(&all).rev().step_by(9) {
        let alone = decoder.generate(std::slice::from_ref(prompt), &options);
        assert_eq!(alone.unwrap(), std::slice::from_ref(expected));
    }
}
