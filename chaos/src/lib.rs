//! The instruments that prove the promise. Each can be pointed at any server.

pub mod alone;
pub mod audit;
pub mod bench;
pub mod broken;
pub mod clip;
pub mod encoder;
pub mod faultfs;
pub mod frames;
pub mod interrupted;
pub mod load;
pub mod rtmp_client;
pub mod scenario;
pub mod server;
pub mod standstill;
pub mod viewers;
