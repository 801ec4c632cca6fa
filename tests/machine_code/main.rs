//! What the notes say about the order of the machine code, as cuobjdump lists it: that arithmetic stands in front of a wait and not behind it,
//! that products stand between two barriers, that a row's loads are all on their way before one is used. ptxas moves all of
//! these, and neither a compiler's warning nor the emulator shows it.
//!
//! A claim is a test in the file of its family: it takes a kernel of [`listing::kernels`], narrows its code down with [`Code`]'s methods (the loop
//! around the products, what stands between two instructions) and compares counts. Count what the claim is about, with a bound that
//! another compiler's schedule may keep, and try it: take out of the kernel what makes it true, and see the test fail. A build without kernels, or a
//! machine without cuobjdump, skips the tests.
//!
//! [`Code`]: listing::Code

mod attention;
mod gemm;
mod hopper;
mod listing;
mod memory;
