//! What the HTML reports have in common: one self-contained file each, with the same look and the same plots.
//!
//! ```text
//! style.css   the look
//! plot.html   macros: a plot, a chip of a series' colour and shape
//! plot.rs     where a plot's marks and ticks lie
//! ```

mod plot;

use std::io;

use minijinja::value::Value;
use minijinja::{Environment, Error};

pub use plot::{Axis, Plot, Point, Series, Titles};

/// Colours and shapes that a page has beside that of its first series.
const SLOTS: usize = 7;

/// Which colour and shape the series of this name has among `names`; the first one's is 0.
pub fn slot(names: &[impl AsRef<str>], name: &str) -> usize {
    match names.iter().position(|other| other.as_ref() == name) {
        Some(0) | None => 0,
        Some(i) => 1 + (i - 1) % SLOTS,
    }
}

/// Fills in the template `text`.
///
/// # Errors
/// An error of the template.
pub fn render(text: &str, context: Value) -> io::Result<String> {
    let document = || -> Result<String, Error> {
        let mut environment = Environment::new();
        environment.add_template("plot.html", include_str!("plot.html"))?;
        environment.add_template("style.css", include_str!("style.css"))?;
        environment.render_named_str("page.html", text, context)
    };
    document().map_err(io::Error::other)
}
