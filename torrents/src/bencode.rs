//! Bencode within limits: depth, size, token count; strict where a hash depends on it,
//! lenient for extended handshakes and tracker replies (others send them unsorted).
