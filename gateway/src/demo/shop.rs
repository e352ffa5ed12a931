//! A small shop's API, in two versions: products, and orders that are kept in memory.

use super::serve::{Call, Example, Site};
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// Older orders are forgotten.
const MAX_ORDERS: usize = 1000;
const JSON: &str = "application/json";
const PRODUCTS: [(&str, u32); 6] = [
    ("Portcullis chain, forged, per metre", 4200),
    ("Gatehouse lantern with four panes", 8900),
    ("Drawbridge hinge, left", 12950),
    ("Drawbridge hinge, right", 12950),
    ("Arrow slit shutter, oak", 3475),
    ("Moat rope, hemp, 30 metres", 1990),
];

pub(super) fn site(version: u8) -> Site {
    Site::new(Shop { version, orders: Mutex::default() })
}

struct Shop {
    version: u8,
    orders: Mutex<Orders>,
}

#[derive(Default)]
struct Orders {
    taken: u64,
    latest: Vec<Value>,
}

impl Shop {
    fn product(&self, id: usize) -> Option<Value> {
        let (name, cents) = PRODUCTS.get(id.checked_sub(1)?)?;
        Some(match self.version {
            1 => json!({ "id": id, "name": name, "cents": cents }),
            _ => json!({ "id": id, "name": name, "price": { "amount": cents, "currency": "EUR" } }),
        })
    }

    fn order(&self, body: &[u8]) -> (u16, Value) {
        let Ok(wish) = serde_json::from_slice::<Value>(body) else {
            return (400, json!({ "error": "an order is a JSON object" }));
        };
        let product = wish["product"].as_u64().and_then(|id| self.product(usize::try_from(id).ok()?));
        let (Some(product), Some(count)) = (product, wish["count"].as_u64().filter(|n| (1..=100).contains(n))) else {
            return (422, json!({ "error": "expected a product's id and a count from 1 to 100" }));
        };
        let mut orders = self.orders.lock();
        orders.taken += 1;
        let order = json!({ "order": orders.taken, "product": product, "count": count });
        if orders.latest.len() == MAX_ORDERS {
            orders.latest.remove(0);
        }
        orders.latest.push(order.clone());
        (201, order)
    }

    fn look_up(&self, path: &str) -> Option<Value> {
        match path {
            "/products" => Some((1..=PRODUCTS.len()).filter_map(|id| self.product(id)).collect()),
            "/orders" => Some(Value::Array(self.orders.lock().latest.clone())),
            _ => self.product(path.strip_prefix("/products/")?.parse().ok()?),
        }
    }
}

#[async_trait]
impl Example for Shop {
    async fn answer(&self, call: &mut Call) -> pingora::Result<()> {
        let path = call.path();
        let body = call.body().await?;
        match (call.method(), path.as_str()) {
            ("GET" | "HEAD", "/health") => call.reply(200, "text/plain", "well\n").await,
            ("GET" | "HEAD", "/version") => call.reply(200, "text/plain", format!("v{}\n", self.version)).await,
            ("POST", "/orders") => {
                let (status, answer) = self.order(&body);
                call.reply(status, JSON, format!("{answer}\n")).await
            }
            ("GET" | "HEAD", path) => match self.look_up(path) {
                Some(found) => call.reply(200, JSON, format!("{found:#}\n")).await,
                None => call.reply(404, JSON, "{\"error\":\"no such thing in this shop\"}\n").await,
            },
            _ => call.reply(405, JSON, "{\"error\":\"the shop does not do that\"}\n").await,
        }
    }
}
