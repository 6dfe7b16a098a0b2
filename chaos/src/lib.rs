//! The instruments that prove the promise: faults, encoders, viewers, a judge. None is built yet.
