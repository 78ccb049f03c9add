//! Token pieces and statuses.

mod support;

use ir::DType;
use runtime::errors::{E_ARG, E_TOKEN, E_TOKENIZER, STATUSES};
use support::{Runtime, hosts, layout};

#[test]
fn pieces_are_the_bytes_of_tokens() {
    let pieces: Vec<Vec<u8>> = ["", "a", " the", "\u{20ac}", "\0", "", "longer than the rest"]
        .map(|s| s.as_bytes().to_vec())
        .to_vec();
    for target in hosts() {
        let runtime = Runtime::new(&target, layout(8, 7, DType::F32), Some(&pieces));
        for (token, piece) in pieces.iter().enumerate() {
            for cap in 0..25 {
                let (n, out) = runtime.piece(token as i32, cap);
                let written = piece.len().min(cap);
                assert_eq!(n as usize, piece.len());
                assert_eq!(out[..written], piece[..written]);
                assert!(out[written..].iter().all(|b| *b == 0xee));
            }
            // SAFETY: `cap` 0 writes nothing.
            let n = unsafe { (runtime.piece)(token as i32, std::ptr::null_mut(), 0) };
            assert_eq!(n as usize, piece.len());
        }
        for token in [-1, 7, i32::MAX, i32::MIN] {
            assert_eq!(runtime.piece(token, 4).0, E_TOKEN);
        }
        // SAFETY: null is found before it is used.
        assert_eq!(unsafe { (runtime.piece)(1, std::ptr::null_mut(), 1) }, E_ARG);
    }
}

#[test]
fn without_a_tokenizer_there_are_no_pieces() {
    let runtime = Runtime::new(&hosts()[0], layout(8, 7, DType::F32), None);
    assert_eq!(runtime.piece(1, 4).0, E_TOKENIZER);
    let runtime = Runtime::new(&hosts()[0], layout(8, 7, DType::F32), Some(&vec![vec![]; 7]));
    assert_eq!(runtime.piece(6, 4).0, 0);
}

#[test]
fn every_status_has_a_text() {
    for target in hosts() {
        let runtime = Runtime::new(&target, layout(8, 7, DType::F32), None);
        for s in STATUSES {
            assert_eq!(runtime.error(s.value), s.message);
        }
        for good in [1, 2, 49151, i32::MAX] {
            assert_eq!(runtime.error(good), "ok");
        }
        for unknown in [-(STATUSES.len() as i32), -1000, i32::MIN, i32::MIN + 1] {
            assert_eq!(runtime.error(unknown), "unknown status");
        }
    }
}
