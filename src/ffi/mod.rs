//! *How C sees it*: one noun a file.
