//! Transports: each authenticates its clients, passes their frames to [`crate::ingress`], and gives sessions an
//! [`Outlet`](crate::sessions::outlet::Outlet) per client.

pub(crate) mod bridge;
