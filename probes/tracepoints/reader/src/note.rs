//! The descriptor of one note.

use thiserror::Error;

/// What is wrong with a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoteError {
    /// It ends before the three addresses do.
    #[error("{bytes} bytes are too few for three addresses")]
    Short {
        /// Bytes there are.
        bytes: usize,
    },
    /// A text does not end.
    #[error("its {text} does not end")]
    Unterminated {
        /// Which text.
        text: &'static str,
    },
    /// A text is not UTF-8.
    #[error("its {text} is not UTF-8")]
    NotText {
        /// Which text.
        text: &'static str,
    },
}

/// A note as written, addresses as linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Note<'a> {
    pub(crate) address: u64,
    pub(crate) base: u64,
    pub(crate) semaphore: u64,
    pub(crate) provider: &'a str,
    pub(crate) name: &'a str,
    pub(crate) arguments: &'a str,
}

impl<'a> Note<'a> {
    /// Three little-endian addresses and three texts that end in zero. What follows is ignored: it is padding.
    pub(crate) fn parse(descriptor: &'a [u8]) -> Result<Self, NoteError> {
        let short = NoteError::Short { bytes: descriptor.len() };
        let mut rest = descriptor;
        let mut word = || {
            let (word, after) = rest.split_first_chunk().ok_or(short)?;
            rest = after;
            Ok(u64::from_le_bytes(*word))
        };
        let (address, base, semaphore) = (word()?, word()?, word()?);
        let mut text = |text| {
            let end = rest.iter().position(|byte| *byte == 0).ok_or(NoteError::Unterminated { text })?;
            let found = std::str::from_utf8(&rest[..end]).map_err(|_| NoteError::NotText { text })?;
            rest = &rest[end + 1..];
            Ok(found)
        };
        let (provider, name, arguments) = (text("provider")?, text("name")?, text("argument list")?);
        Ok(Self { address, base, semaphore, provider, name, arguments })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn descriptor(words: [u64; 3], texts: [&str; 3]) -> Vec<u8> {
        let words = words.into_iter().flat_map(u64::to_le_bytes);
        words.chain(texts.into_iter().flat_map(|text| text.bytes().chain([0]))).collect()
    }

    #[test]
    fn every_way_to_be_cut_off_has_its_error() {
        let whole = descriptor([1, 2, 3], ["p", "n", "8@%rdi"]);
        assert!(Note::parse(&whole).is_ok());
        for len in 0..whole.len() {
            let expected = match len {
                0..24 => NoteError::Short { bytes: len },
                24..26 => NoteError::Unterminated { text: "provider" },
                26..28 => NoteError::Unterminated { text: "name" },
                _ => NoteError::Unterminated { text: "argument list" },
            };
            assert_eq!(Note::parse(&whole[..len]), Err(expected), "{len} bytes");
        }
        let mut garbled = whole;
        garbled[26] = 0xff;
        assert_eq!(Note::parse(&garbled), Err(NoteError::NotText { text: "name" }));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(words: [u64; 3], texts in proptest::array::uniform3("[^\0]{0,20}"), padding in 0_usize..4) {
            let mut bytes = descriptor(words, std::array::from_fn(|i| texts[i].as_str()));
            bytes.extend(vec![0; padding]);
            let note = Note::parse(&bytes).unwrap();
            prop_assert_eq!([note.address, note.base, note.semaphore], words);
            prop_assert_eq!([note.provider, note.name, note.arguments], std::array::from_fn(|i| texts[i].as_str()));
        }

        #[test]
        fn garbage_does_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Note::parse(&bytes);
        }
    }
}
