//! What a source says about its files while the run goes on.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Takes sentences for whoever runs the source. Each is said once, however often the files are opened.
#[derive(Clone, Default)]
pub struct Notice(Option<Arc<Said>>);

struct Said {
    say: Box<dyn Fn(&str) + Send + Sync>,
    before: Mutex<HashSet<String>>,
}

impl Notice {
    /// Sentences go to `say`; by default nobody hears them.
    pub fn to(say: impl Fn(&str) + Send + Sync + 'static) -> Notice {
        Notice(Some(Arc::new(Said { say: Box::new(say), before: Mutex::default() })))
    }

    /// Says a sentence, unless it was said before.
    pub fn say(&self, sentence: &str) {
        if let Some(said) = &self.0
            && said.before.lock().unwrap_or_else(PoisonError::into_inner).insert(sentence.to_owned())
        {
            (said.say)(sentence);
        }
    }
}

impl fmt::Debug for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Notice(heard)" } else { "Notice(not heard)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sentence_is_said_once() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&heard);
        let notice = Notice::to(move |sentence| notes.lock().unwrap().push(sentence.to_owned()));
        let same = notice.clone();
        for sentence in ["a is read as ndjson", "b is read as combined", "a is read as ndjson"] {
            notice.say(sentence);
            same.say(sentence);
        }
        assert_eq!(*heard.lock().unwrap(), ["a is read as ndjson", "b is read as combined"]);
        Notice::default().say("nobody hears this");
    }
}
