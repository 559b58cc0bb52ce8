//! Ways in: each proves who its clients are, hands their frames to [`crate::ingress`], and gives sessions an
//! [`Outlet`](crate::sessions::outlet::Outlet) to each client.

pub(crate) mod bridge;
