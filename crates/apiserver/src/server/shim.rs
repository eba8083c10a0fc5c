//! shim
use serde_json::Value;
/// shim
pub struct Columns;
impl Columns {
    /// shim
    pub fn from_crd(_v: &Value) -> Columns { Columns }
    /// shim
    pub fn definitions(&self) -> Vec<Value> { vec![] }
    /// shim
    pub fn row(&self, _v: &Value, _n: jiff::Timestamp) -> Vec<Value> { vec![] }
}
