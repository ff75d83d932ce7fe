//! Owns the choice of the TLS implementation for the whole process. Never opens a connection.

/// Makes `ring` the process's TLS provider, unless another one was chosen already.
pub(crate) fn use_ring() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Two threads may come here at once; either choice is the same.
        rustls::crypto::ring::default_provider().install_default().ok();
    }
}
