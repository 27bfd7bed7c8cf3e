//! Nothing here: the simulation of whole clusters is a test, `tests/sim`, so that what it needs of tokio never gets into the program.
