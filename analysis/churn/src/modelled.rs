//! Figures that nobody measured.

use serde::Serialize;

/// What a modelled figure was computed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Model {
    /// A fully associative LRU cache, by the exact stack of the whole stream.
    LruStack,
    /// The same, by a sample of the pages (SHARDS).
    LruShards,
    /// Page walks with assumed hit ratios of the walker's own caches.
    Walk,
    /// Throughput by the Fast & Safe formula.
    FastAndSafe,
}

/// A figure that a model gave. It stays marked: there is no way to take part in a computation of measured figures without
/// a call of [`modelled`](Self::modelled), and JSON says `{"modelled": …, "by": …}`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[must_use]
pub struct Modelled<T> {
    modelled: T,
    by: Model,
}

impl<T> Modelled<T> {
    pub(crate) fn new(by: Model, modelled: T) -> Self {
        Self { modelled, by }
    }

    /// The figure, by a name that says what it is.
    pub fn modelled(self) -> T {
        self.modelled
    }

    /// The model.
    pub fn by(&self) -> Model {
        self.by
    }
}

impl<T: std::fmt::Display> std::fmt::Display for Modelled<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.modelled.fmt(f)?;
        f.write_str(" (modelled)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_in_text_and_json() {
        let figure = Modelled::new(Model::Walk, 1.25);
        assert_eq!(format!("{figure:.1}"), "1.2 (modelled)");
        let json = serde_json::to_value(figure).unwrap();
        assert_eq!(json, serde_json::json!({ "modelled": 1.25, "by": "walk" }));
    }
}
