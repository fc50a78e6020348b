//! What the notebooks need beside the library: its one dependency for cells, which hands on [`branchynet`],
//! [`branchynet_runs`], candle, [`plotly`] and [`polars`]; figures and tables that several notebooks share; a module for
//! each notebook that needs one; and the numbers of the paper.
//!
//! | notebook | module |
//! |---|---|
//! | 1 to 3, the networks | [`table1`] |
//! | 4, thresholds | [`thresholds`] |
//! | 5, 6 and 14, branches and training | [`variants`] |
//! | 7, cache | [`cache`] |
//! | 8, where the speed-up comes from | [`speedup`] |
//! | 9, is it worth it | [`worth`] |
//! | 10, criteria and guarantees | [`criteria`] |
//! | 11, when the world shifts | [`shift`], [`corruption`] |
//! | 12, the axes of the field | [`axes`] |

/// polars' `df!` with the library's error, so that a cell may end in `?`.
#[macro_export]
macro_rules! df {
    ($($columns:tt)*) => { $crate::polars::prelude::df!($($columns)*).map_err($crate::branchynet::Error::other) };
}

/// A table with a row for each element of `$rows`, which is `$row` in the columns' values; with the library's error.
#[macro_export]
macro_rules! rows {
    ($rows:expr, $row:pat => $($name:expr => $value:expr),* $(,)?) => {
        match &$rows {
            rows => $crate::df!($($name => rows.iter().map(|row| {
                #[allow(unused_variables)]
                let $row = row;
                $value
            }).collect::<Vec<_>>()),*),
        }
    };
}

pub mod axes;
pub mod cache;
pub mod corruption;
pub mod criteria;
pub mod figures;
pub mod paper;
pub mod report;
pub mod session;
pub mod shift;
pub mod speedup;
pub mod table1;
pub mod tables;
pub mod thresholds;
pub mod timed_choices;
pub mod variants;
pub mod worth;

// Linked, not used by name.
use branchynet_libraries as _;

pub use branchynet;
pub use branchynet::{candle_core, candle_nn};
pub use branchynet_runs;
pub use plotly;
pub use polars;

/// What a notebook needs, in one `use`.
pub mod prelude {
    pub use crate::paper::{self, Paper};
    pub use crate::report::{Report, table};
    pub use crate::table1::TableOne;
    pub use crate::tables;
    pub use crate::timed_choices::TimedChoices;
    pub use crate::{candle_core, candle_nn, df, figures, polars, rows, session};
    pub use branchynet_runs::prelude::*;
    pub use plotly::Plot;
    pub use polars::prelude::DataFrame;
}
