//! The orders of operators to close connections, and their bound.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::live::CloseOrder;

/// The most orders to close connections that are carried out at once. Each holds a queue in each worker.
const MOST_ORDERS: usize = 8;

/// As many orders to close connections are carried out as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{MOST_ORDERS} orders to close connections are being carried out, which is the most: wait until one is over, or cancel \
     them with `pointsman connections close --cancel`"
)]
pub struct TooManyOrders;

/// The orders to close connections that are being carried out.
#[derive(Debug, Default)]
pub(super) struct CloseOrders {
    /// Locked for a few instructions. The workers hold the orders, so an order that is over is gone.
    orders: Mutex<Vec<Weak<CloseOrder>>>,
}

impl CloseOrders {
    /// Cancels all orders. Returns their number.
    pub(super) fn cancel_all(&self) -> usize {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let running = orders.drain(..).filter_map(|order| order.upgrade());
        running.map(|order| order.cancel()).count()
    }

    /// Adds an order.
    ///
    /// # Errors
    ///
    /// As many orders as may be are being carried out.
    pub(super) fn add(&self, order: &Arc<CloseOrder>) -> Result<(), TooManyOrders> {
        // Code under the lock cannot panic.
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.retain(|order| order.strong_count() > 0);
        if orders.len() >= MOST_ORDERS {
            return Err(TooManyOrders);
        }
        orders.push(Arc::downgrade(order));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::{ClosePace, ConnectionFilter};
    use crate::telemetry::CloseReason;

    #[test]
    fn orders_are_bounded_and_make_room_when_they_are_over() {
        let orders = CloseOrders::default();
        let add = || {
            let all = Box::new(ConnectionFilter::default());
            let order = CloseOrder::new(all, CloseReason::ClosedByOperator, ClosePace::new(1), u64::MAX);
            orders.add(&order).map(|()| order)
        };
        let mut held: Vec<_> = (0..MOST_ORDERS).map(|_| add().unwrap()).collect();
        assert_eq!(add().map(drop), Err(TooManyOrders));
        held.pop();
        assert!(add().is_ok());
        assert_eq!((orders.cancel_all(), orders.cancel_all()), (MOST_ORDERS - 1, 0));
        assert!(add().is_ok());
    }
}
