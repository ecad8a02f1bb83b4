//! A target under libFuzzer, which sees what code an input reaches; `make fuzz-guided` builds and runs it.
//!
//! `FUZZ_TARGET` names the target. Its ordinary inputs and its corpus are written to the folder `FUZZ_SEEDS` first, which
//! is then an argument.
#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use tidemill_fuzz::memory::Counting;
use tidemill_fuzz::{Target, corpus, panics, target};

#[global_allocator]
static MEMORY: Counting = Counting;

fn chosen() -> &'static Target {
    static CHOSEN: OnceLock<Target> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        target(&name).unwrap_or_else(|| panic!("FUZZ_TARGET={name:?} is no target"))
    })
}

fuzz_target!(
    init: {
        let ends = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panics::counts(panic) {
                ends(panic);
            }
        }));
        if let Some(folder) = std::env::var_os("FUZZ_SEEDS") {
            corpus::write(chosen(), Path::new(&folder)).expect("the folder of FUZZ_SEEDS takes files");
        }
    },
    |bytes: &[u8]| (chosen().run)(bytes)
);
