//! Two ends in memory: who comes to an understanding with whom, and what somebody between them can do about it.

use proptest::prelude::*;

use super::*;

/// Process `process` of two with two threads each.
fn identity(process: u32) -> Identity {
    let hosts = vec!["a:1".into(), "b:1".into()];
    Identity::new(&ClusterOptions::new(process, hosts, Token::new("a secret")), 2)
}

fn sealed(greeting: &[u8]) -> [u8; SEALED_GREETING] {
    Identity::check_header(*greeting.first_chunk().unwrap()).unwrap();
    greeting[HEADER..].try_into().unwrap()
}

fn understand(dialler: &Identity, noise: HandshakeState, answer: &Answer) -> Result<(Keys, u64), Failed> {
    match answer.says.split_first().unwrap() {
        (&SEALED, said) => dialler.understand(noise, said.try_into().unwrap()),
        (octet, _) => Err(Identity::refused(*octet)),
    }
}

/// What comes of it on both sides: the acceptor's sentence, and the dialler's.
fn meet(dialler: &Identity, acceptor: &Identity) -> (Option<String>, Option<String>) {
    let (noise, greeting) = dialler.greet(0).unwrap();
    let answer = acceptor.answer(&sealed(&greeting), 7).unwrap();
    let failed = understand(dialler, noise, &answer).err().map(|failed| match failed {
        Failed::Passing(error) => format!("for now: {error}"),
        Failed::Refused(sentence) => sentence,
    });
    (answer.outcome.err(), failed)
}

/// The keys of two that met, the dialler's first.
pub(in crate::cluster) fn both_keys() -> (Keys, Keys) {
    let (noise, greeting) = identity(1).greet(0).unwrap();
    let answer = identity(0).answer(&sealed(&greeting), 7).unwrap();
    let (dialler, run) = understand(&identity(1), noise, &answer).ok().unwrap();
    let (acceptor, from) = answer.outcome.ok().unwrap();
    assert_eq!((run, from), (7, 1));
    (dialler, acceptor)
}

#[test]
fn who_does_not_fit_is_told_why_on_both_sides() {
    let change = |change: fn(&mut Identity)| {
        let mut changed = identity(1);
        change(&mut changed);
        meet(&changed, &identity(0))
    };
    type Case = (fn(&mut Identity), &'static str, &'static str);
    let cases: [Case; 7] = [
        (|_| {}, "", ""),
        (|i| i.token = Token::new("another"), "another token", "another token; give all processes the same one"),
        (|i| i.processes = 3, "a run of another shape", "other numbers; give all processes --workers 2 and 3 hosts"),
        (|i| i.threads = 3, "a run of another shape", "other numbers; give all processes --workers 3 and 2 hosts"),
        (|i| i.process = 2, "takes itself for process 2", "does not expect process 2 there"),
        (
            |i| i.attempt = 1,
            "process 1 of attempt 1; this is attempt 0",
            "for now: a process of attempt 0 is still there",
        ),
        (|i| i.process = 0, "takes itself for process 0", "does not expect process 0 there"),
    ];
    for (make, to_acceptor, to_dialler) in cases {
        let (acceptor, dialler) = change(make);
        for (said, expected) in [(acceptor, to_acceptor), (dialler, to_dialler)] {
            assert_eq!(said.is_some(), !expected.is_empty(), "{said:?}");
            assert!(said.iter().all(|said| said.contains(expected)), "{said:?}: {expected}");
        }
    }
    let later = Identity { attempt: 3, ..identity(0) };
    let (_, dialler) = meet(&identity(1), &later);
    assert!(dialler.is_some_and(|said| said.contains("belongs to attempt 3, this process to attempt 0")));
}

#[test]
fn a_header_is_of_this_program_and_version_or_refused() {
    assert_eq!(Identity::check_header(HEADING), Ok(()));
    assert!(Identity::check_header(*b"GET / HTTP/1").is_err_and(|(_, octet)| octet.is_none()));
    for at in 0..HEADER {
        let mut other = HEADING;
        other[at] ^= 1;
        let answered = (at >= 8).then_some(ANOTHER_VERSION);
        assert!(Identity::check_header(other).is_err_and(|(_, octet)| octet == answered), "octet {at}");
    }
}

#[test]
fn a_recorded_greeting_is_answered_with_other_keys() {
    let (noise, greeting) = identity(1).greet(0).unwrap();
    let [first, again] = [(); 2].map(|()| identity(0).answer(&sealed(&greeting), 7).unwrap());
    let (dialler, _) = understand(&identity(1), noise, &first).ok().unwrap();
    let mut wire = [0; 100];
    let proof = dialler.write_message(0, b"proof", &mut wire).unwrap();
    let opens = |answer: Answer| {
        let (keys, _) = answer.outcome.ok().unwrap();
        keys.read_message(0, &wire[..proof], &mut [0; 100]).is_ok()
    };
    assert!(opens(first));
    assert!(!opens(again), "what was recorded with the first answer opens nothing later");
}

#[test]
fn neither_token_nor_shape_can_be_seen_in_what_is_said() {
    let identity = |process| Identity { attempt: 0x5151_5151_5151_5151, ..identity(process) };
    let (_, greeting) = identity(1).greet(0).unwrap();
    let answer = identity(0).answer(&sealed(&greeting), 0x7272_7272_7272_7272).unwrap();
    let said = [greeting, answer.says].concat();
    let token = identity(0).token.0;
    for hidden in [&[0x51; 8][..], &[0x72; 8], &token, &token[..8], b"a secret"] {
        assert!(!said.windows(hidden.len()).any(|window| window == hidden), "{hidden:x?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bit_of_a_greeting_can_be_changed(at in 0..SEALED_GREETING, bit in 0..8_u8) {
        let (_, greeting) = identity(1).greet(0).unwrap();
        let mut changed = sealed(&greeting);
        changed[at] ^= 1_u8 << bit;
        let answer = identity(0).answer(&changed, 7).unwrap();
        prop_assert_eq!(answer.outcome.err(), Some("it has another token".to_owned()));
        prop_assert_eq!(answer.says, vec![ANOTHER_TOKEN]);
    }

    #[test]
    fn no_bit_of_an_answer_can_be_changed(at in 1..=SEALED_ANSWER, bit in 0..8_u8) {
        let (noise, greeting) = identity(1).greet(0).unwrap();
        let mut answer = identity(0).answer(&sealed(&greeting), 7).unwrap();
        answer.says[at] ^= 1_u8 << bit;
        prop_assert!(matches!(understand(&identity(1), noise, &answer), Err(Failed::Refused(_))));
    }

    #[test]
    fn whatever_a_stranger_says_is_another_token(said in any::<[u8; 32]>(), rest in any::<[u8; 32]>(), last in any::<u64>()) {
        let said: [u8; SEALED_GREETING] = [&said[..], &rest, &last.to_le_bytes()].concat().try_into().unwrap();
        let answer = identity(0).answer(&said, 7).unwrap();
        prop_assert_eq!((answer.says, answer.outcome.is_err()), (vec![ANOTHER_TOKEN], true));
    }
}
