//! *How it reaches the disk*: storage, writing, checksums, commit. Knows nothing of Keras or HDF5.
