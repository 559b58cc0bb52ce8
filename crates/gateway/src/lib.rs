//! Stand-in for Amazon API Gateway's WebSocket APIs, the Lambda service and `DynamoDB`.

pub mod clock;
pub mod config;
pub mod control;
pub mod counters;
pub mod descriptors;
pub mod dispatch;
pub mod dynamodb;
pub mod event;
pub mod faults;
pub mod function;
pub mod gateway;
mod http1;
pub mod id;
pub mod limits;
mod management;
pub mod reply;
pub mod route;
pub mod stack;
pub mod tls;
pub mod ws;
