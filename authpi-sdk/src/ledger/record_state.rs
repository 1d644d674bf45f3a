use serde::Serialize;

/// The state of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RecordState {
    /// No worker holds it. It can be claimed when its pause, if any, has ended.
    Pending,
    /// A worker holds it. It can be claimed by another one when its lease has expired.
    Claimed,
    /// The event was handled.
    Handled,
    /// The event was given up. If the store keeps dead letters, the record is one.
    Dead,
}

#[cfg(any(feature = "sqlite", feature = "postgres"))]
impl RecordState {
    /// The number of the state; the schemas list the numbers.
    pub(crate) const fn number(self) -> i16 {
        match self {
            Self::Pending => 0,
            Self::Claimed => 1,
            Self::Handled => 2,
            Self::Dead => 3,
        }
    }

    /// The state with this number.
    ///
    /// # Errors
    /// When no state has this number.
    pub(crate) fn from_number(number: i64) -> Result<Self, sqlx::Error> {
        match number {
            0 => Ok(Self::Pending),
            1 => Ok(Self::Claimed),
            2 => Ok(Self::Handled),
            3 => Ok(Self::Dead),
            other => Err(sqlx::Error::Protocol(format!(
                "the ledger's table has a record with the unknown state {other}"
            ))),
        }
    }
}
