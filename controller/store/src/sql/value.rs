//! What a statement is given and what it answers.

use crate::StoreError;

/// A parameter or a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Integer(i64),
    Text(String),
    Blob(Vec<u8>),
}

macro_rules! value_from {
    ($($from:ty => $variant:ident, $value:ident => $into:expr;)*) => {$(
        impl From<$from> for Value {
            fn from($value: $from) -> Self {
                Self::$variant($into)
            }
        }

        impl From<Option<$from>> for Value {
            fn from(value: Option<$from>) -> Self {
                value.map_or(Self::Null, |$value| Self::$variant($into))
            }
        }
    )*};
}

value_from! {
    i64 => Integer, value => value;
    i32 => Integer, value => i64::from(value);
    u32 => Integer, value => i64::from(value);
    u16 => Integer, value => i64::from(value);
    bool => Integer, value => i64::from(value);
    String => Text, value => value;
    &str => Text, value => value.to_owned();
    &String => Text, value => value.clone();
    Vec<u8> => Blob, value => value;
    &[u8] => Blob, value => value.to_vec();
}

impl From<&Option<String>> for Value {
    fn from(value: &Option<String>) -> Self {
        value.clone().into()
    }
}

/// A type that a column can be read as.
pub(crate) trait FromValue<'r>: Sized {
    /// `None` when the column is of another type.
    fn from_value(value: &'r Value) -> Option<Self>;
}

macro_rules! integer {
    ($($integer:ty)*) => {$(
        impl FromValue<'_> for $integer {
            fn from_value(value: &Value) -> Option<Self> {
                match value {
                    Value::Integer(number) => Self::try_from(*number).ok(),
                    Value::Null | Value::Text(_) | Value::Blob(_) => None,
                }
            }
        }
    )*};
}

integer!(i64 i32 u32 u16);

impl FromValue<'_> for bool {
    fn from_value(value: &Value) -> Option<Self> {
        i64::from_value(value).map(|number| number != 0)
    }
}

impl<'r> FromValue<'r> for &'r str {
    fn from_value(value: &'r Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text),
            Value::Null | Value::Integer(_) | Value::Blob(_) => None,
        }
    }
}

impl<'r> FromValue<'r> for String {
    fn from_value(value: &'r Value) -> Option<Self> {
        <&str>::from_value(value).map(str::to_owned)
    }
}

impl<'r> FromValue<'r> for &'r [u8] {
    fn from_value(value: &'r Value) -> Option<Self> {
        match value {
            Value::Blob(blob) => Some(blob),
            Value::Null | Value::Integer(_) | Value::Text(_) => None,
        }
    }
}

impl<'r> FromValue<'r> for Vec<u8> {
    fn from_value(value: &'r Value) -> Option<Self> {
        <&[u8]>::from_value(value).map(<[u8]>::to_vec)
    }
}

impl<'r, T: FromValue<'r>> FromValue<'r> for Option<T> {
    fn from_value(value: &'r Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            Value::Integer(_) | Value::Text(_) | Value::Blob(_) => T::from_value(value).map(Some),
        }
    }
}

/// A row that a statement answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row(Vec<Value>);

impl Row {
    pub(crate) fn new(columns: Vec<Value>) -> Self {
        Self(columns)
    }

    /// The columns, in the order of the statement.
    pub(crate) fn columns(&self) -> &[Value] {
        &self.0
    }

    /// A column, counted from 0.
    pub(crate) fn try_get<'r, T: FromValue<'r>>(&'r self, column: usize) -> Result<T, StoreError> {
        let value =
            self.0.get(column).ok_or_else(|| StoreError::row(format!("there is no column {column}")))?;
        // The value itself may be anything, a secret too: its place has to be enough.
        T::from_value(value).ok_or_else(|| StoreError::row(format!("column {column} is of another type")))
    }
}
