//! Who computes a matrix product on a GPU: the kernels of this build, or the vendor's library.
//!
//! Both sum in f32, in different orders, so results differ in their last bits. Hence our own is the default: the same seed then
//! gives the same bits. `auto` measures both once for each shape and takes the faster, which another run may see otherwise.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::product::{Layout, Product};
use crate::Result;

/// What `--gemm` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum GemmChoice {
    /// The faster of the two for each shape, measured at its first use.
    Auto,
    /// The kernels of this build; on Hopper in clusters of two blocks where that is predicted to be faster.
    #[default]
    Own,
    /// As own, on Hopper never in clusters.
    OwnSingle,
    /// As own, on Hopper always in clusters.
    OwnCluster,
    /// NVIDIA's library, where it takes the product.
    #[value(name = "cublaslt")]
    #[serde(rename = "cublaslt")]
    CublasLt,
}

impl GemmChoice {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Own => "own",
            Self::OwnSingle => "own-single",
            Self::OwnCluster => "own-cluster",
            Self::CublasLt => "cublaslt",
        }
    }

    /// Whether the vendor's library may be asked.
    pub fn wants_vendor(self) -> bool {
        matches!(self, Self::Auto | Self::CublasLt)
    }

    /// Whether a product runs in clusters, where its plan prefers that or not.
    pub fn in_clusters(self, preferred: bool) -> bool {
        match self {
            Self::OwnSingle => false,
            Self::OwnCluster => true,
            Self::Auto | Self::Own | Self::CublasLt => preferred,
        }
    }
}

/// Both ways through one product, measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The kernel's name, as in `gemm_nt_gelu_bf16`.
    pub product: String,
    /// Rows of tokens, rounded up to a power of two: one measurement serves all batches of about a size.
    pub rows: usize,
    /// Rows and columns of the weight.
    pub weight: [usize; 2],
    /// Milliseconds of our kernels.
    pub own_ms: f64,
    /// Milliseconds of the vendor's library; `None` where it does not take the product.
    pub vendor_ms: Option<f64>,
}

impl Measured {
    /// Whether the vendor's library is faster.
    pub fn vendor_wins(&self) -> bool {
        self.vendor_ms.is_some_and(|vendor| vendor < self.own_ms)
    }
}

/// The choice, and what has been measured for it in this process.
#[derive(Debug)]
pub struct GemmTable {
    choice: GemmChoice,
    measured: Mutex<Vec<Measured>>,
}

impl GemmTable {
    /// An empty table.
    pub fn new(choice: GemmChoice) -> Self {
        Self { choice, measured: Mutex::default() }
    }

    /// What was chosen.
    pub fn choice(&self) -> GemmChoice {
        self.choice
    }

    /// Whether the vendor's library is to compute `product`, whose kernel is called `name`. `measure` returns the milliseconds of
    /// both ways; it is called at most once for a name, a weight and a size of batch.
    ///
    /// # Errors
    /// Those of `measure`.
    pub fn prefers_vendor(
        &self,
        name: &str,
        product: &Product,
        measure: impl FnOnce() -> Result<(f64, Option<f64>)>,
    ) -> Result<bool> {
        if self.choice != GemmChoice::Auto {
            return Ok(self.choice == GemmChoice::CublasLt);
        }
        let (rows, weight) = (product.rows().next_power_of_two(), weight(product));
        let mut measured = self.lock();
        let known = measured.iter().find(|known| known.product == name && known.rows == rows && known.weight == weight);
        if let Some(known) = known {
            return Ok(known.vendor_wins());
        }
        let (own_ms, vendor_ms) = measure()?;
        let new = Measured { product: name.to_owned(), rows, weight, own_ms, vendor_ms };
        tracing::info!("{}", table(std::slice::from_ref(&new)).trim_end());
        let wins = new.vendor_wins();
        measured.push(new);
        Ok(wins)
    }

    /// What has been measured so far.
    pub fn measured(&self) -> Vec<Measured> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Measured>> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rows (outputs) and columns (inputs) of the weight in a product.
fn weight(product: &Product) -> [usize; 2] {
    let [m, n, k] = product.sizes;
    match product.layout {
        Layout::Nt => [n, k],
        Layout::Nn => [k, n],
        Layout::Tn => [m, n],
    }
}

/// Measurements as a table.
pub fn table(measured: &[Measured]) -> String {
    let mut text = format!(
        "{:<28}{:>9}{:>13}{:>11}{:>14}{:>10}\n",
        "matrix product", "rows <=", "weight", "own, ms", "cuBLASLt, ms", "chosen"
    );
    for row in measured {
        let weight = format!("{} x {}", row.weight[0], row.weight[1]);
        let vendor = row.vendor_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.4}"));
        let chosen = if row.vendor_wins() { "cuBLASLt" } else { "own" };
        let line =
            format!("{:<28}{:>9}{weight:>13}{:>11.4}{vendor:>14}{chosen:>10}\n", row.product, row.rows, row.own_ms);
        text.push_str(&line);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DType;

    fn product(layout: Layout, sizes: [usize; 3]) -> Product {
        let (operands, output) = (DType::Bf16, DType::Bf16);
        let (strides, bias) = ([8; 3], None);
        Product { layout, sizes, strides, operands, output, scale: 1.0, accumulate: false, a: 0, b: 0, bias, c: 0 }
    }

    #[test]
    fn a_shape_is_measured_once_and_batches_of_about_a_size_share_it() {
        let table = GemmTable::new(GemmChoice::Auto);
        let ask = |name: &str, product: &Product, times: Option<(f64, Option<f64>)>| {
            table.prefers_vendor(name, product, || Ok(times.expect("nothing needs measuring"))).unwrap()
        };
        assert!(ask("gemm_nt_bf16", &product(Layout::Nt, [900, 48, 16]), Some((2.0, Some(1.0)))));
        assert!(ask("gemm_nt_bf16", &product(Layout::Nt, [1024, 48, 16]), None));
        assert!(!ask("gemm_nt_bf16", &product(Layout::Nt, [1025, 48, 16]), Some((1.0, Some(2.0)))));
        assert!(!ask("gemm_nt_bf16", &product(Layout::Nt, [900, 48, 24]), Some((1.0, None))));
        assert!(!ask("gemm_nn_bf16", &product(Layout::Nn, [900, 16, 48]), Some((1.0, Some(1.0)))));
        assert!(ask("gemm_tn_bf16", &product(Layout::Tn, [48, 16, 900]), Some((1.0, Some(0.5)))));
        let measured = table.measured();
        assert_eq!(measured.iter().map(|row| row.rows).collect::<Vec<_>>(), [1024, 2048, 1024, 1024, 1024]);
        assert!(measured.iter().all(|row| row.weight == [48, 16] || row.weight == [48, 24]));
        assert_eq!(super::table(&measured).lines().count(), 6);
    }

    #[test]
    fn a_firm_choice_measures_nothing() {
        let choices = [GemmChoice::Own, GemmChoice::OwnSingle, GemmChoice::OwnCluster].map(|choice| (choice, false));
        for (choice, vendor) in choices.into_iter().chain([(GemmChoice::CublasLt, true)]) {
            let table = GemmTable::new(choice);
            let product = product(Layout::Nt, [1, 1, 1]);
            assert_eq!(table.prefers_vendor("gemm", &product, || unreachable!()).unwrap(), vendor);
            assert!(table.measured().is_empty());
        }
    }

    #[test]
    fn a_choice_is_called_the_same_everywhere() {
        for &choice in <GemmChoice as clap::ValueEnum>::value_variants() {
            let name = clap::ValueEnum::to_possible_value(&choice).unwrap().get_name().to_owned();
            assert_eq!((name.as_str(), serde_json::json!(choice)), (choice.name(), choice.name().into()));
        }
    }
}
