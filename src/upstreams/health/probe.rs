//! One check of one backend: Pingora's HTTP and TCP checks, or ours that reads a JSON
//! body, each under a deadline for the whole of it.
