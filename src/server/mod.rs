//! Shell one: the server. (skeleton)
