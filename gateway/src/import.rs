//! Files of products and of stock, as CSV (RFC 4180, UTF-8, with a header): text into rows, and what is wrong with them by line.

use std::collections::HashMap;

use csv::{ReaderBuilder, StringRecord, Trim};
use doorbuster_engine::domain::catalog::{CatalogRefused, NewProduct, NewVariant, is_sku};
use doorbuster_engine::domain::imports::{FAULTS_TOLD, LineFault, ProductRow, ROWS_MAX, StockImport, StockRow};
use doorbuster_engine::domain::stock::check_reason;

/// Ten thousand rows of two hundred bytes.
pub const FILE_BYTES: usize = 2 * 1024 * 1024;

/// `product,sku,title,price_minor,currency`, and if they are there `active,reservation`.
pub fn products(text: &str) -> Result<Vec<ProductRow>, Vec<LineFault>> {
    const REQUIRED: [&str; 5] = ["product", "sku", "title", "price_minor", "currency"];
    let mut seen = HashMap::new();
    rows(text, &REQUIRED, &["active", "reservation"], |row| {
        let currency = row.parse("currency")?;
        let price_minor = row.parse("price_minor")?;
        let variant = NewVariant { sku: row.text("sku"), title: row.text("title"), price_minor, currency };
        let product = NewProduct { name: row.text("product"), variants: vec![variant.clone()] };
        product.check().map_err(|refused| match refused {
            CatalogRefused::Field(field, detail) => match field {
                "name" => row.fault("product", detail),
                "variants.sku" => row.fault("sku", detail),
                "variants.title" => row.fault("title", detail),
                _ => row.fault("price_minor", detail),
            },
            other => row.fault("sku", other),
        })?;
        if let Some(line) = seen.insert(variant.sku.clone(), row.line) {
            return Err(row.fault("sku", format!("{} stands in line {line} already", variant.sku)));
        }
        let is_active = match &*row.text("active") {
            "" => None,
            "true" => Some(true),
            "false" => Some(false),
            _ => return Err(row.fault("active", "must be true or false, or empty: then it stays")),
        };
        let reservation = match row.text("reservation").is_empty() {
            true => None,
            false => Some(row.parse("reservation")?),
        };
        let NewVariant { sku, title, price_minor, currency } = variant;
        Ok(ProductRow {
            line: row.line,
            product: product.name,
            sku,
            title,
            price_minor,
            currency,
            is_active,
            reservation,
        })
    })
}

/// `sku,warehouse,quantity,reason`.
pub fn stock(text: &str, mode: StockImport) -> Result<Vec<StockRow>, Vec<LineFault>> {
    let mut seen = HashMap::new();
    rows(text, &["sku", "warehouse", "quantity", "reason"], &[], |row| {
        let found = StockRow {
            line: row.line,
            sku: row.text("sku"),
            warehouse: row.parse("warehouse")?,
            quantity: row.parse("quantity")?,
            reason: row.text("reason"),
        };
        if !is_sku(&found.sku) {
            return Err(row.fault("sku", "must be 1 to 64 visible ASCII characters"));
        }
        check_reason(&found.reason).map_err(|refused| row.fault("reason", refused))?;
        if mode == StockImport::Count {
            if found.quantity < 0 {
                return Err(row.fault("quantity", "nobody counts fewer than 0"));
            }
            if let Some(line) = seen.insert((found.sku.clone(), found.warehouse.clone()), row.line) {
                return Err(row.fault("sku", format!("it was counted in line {line} already")));
            }
        }
        Ok(found)
    })
}

/// One line, with the places of its columns.
struct Row<'a> {
    line: u64,
    record: &'a StringRecord,
    places: &'a HashMap<&'static str, usize>,
}

impl Row<'_> {
    /// A column that the file does not have is empty.
    fn text(&self, column: &'static str) -> String {
        let place = self.places.get(column);
        place.and_then(|place| self.record.get(*place)).unwrap_or_default().to_owned()
    }

    fn parse<T: std::str::FromStr<Err: ToString>>(&self, column: &'static str) -> Result<T, LineFault> {
        self.text(column).parse().map_err(|error: T::Err| self.fault(column, error.to_string()))
    }

    fn fault(&self, column: &'static str, what: impl ToString) -> LineFault {
        LineFault::new(self.line, column, what)
    }
}

fn rows<T>(
    text: &str,
    required: &[&'static str],
    optional: &[&'static str],
    mut take: impl FnMut(&Row<'_>) -> Result<T, LineFault>,
) -> Result<Vec<T>, Vec<LineFault>> {
    let in_header = |what: String| Err(vec![LineFault::new(1, "header", what)]);
    // Spreadsheets begin a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // The reader counts lines by their last byte, and would be one behind with two of them.
    let text = text.replace("\r\n", "\n");
    let mut reader = ReaderBuilder::new().trim(Trim::All).from_reader(text.as_bytes());
    let header = match reader.headers() {
        Ok(header) => header.clone(),
        Err(error) => return in_header(error.to_string()),
    };
    let mut places = HashMap::new();
    for (place, name) in header.iter().enumerate() {
        let Some(known) = required.iter().chain(optional).find(|known| **known == name) else {
            return in_header(format!(
                "there is no column {name:?}; there are {}",
                [required, optional].concat().join(", ")
            ));
        };
        if places.insert(*known, place).is_some() {
            return in_header(format!("the column {name} is there twice"));
        }
    }
    if let Some(missing) = required.iter().find(|name| !places.contains_key(*name)) {
        return in_header(format!("the column {missing} is missing"));
    }
    let (mut found, mut faults) = (Vec::new(), Vec::new());
    for record in reader.records() {
        if faults.len() >= FAULTS_TOLD {
            break;
        }
        let taken = match &record {
            Ok(_) if found.len() >= ROWS_MAX => {
                faults.push(LineFault::new(
                    ROWS_MAX as u64 + 2,
                    "header",
                    format!("a file has at most {ROWS_MAX} rows"),
                ));
                break;
            }
            Ok(record) => {
                let line = record.position().map_or(0, csv::Position::line);
                take(&Row { line, record, places: &places })
            }
            Err(error) => Err(LineFault::new(
                error.position().map_or(0, csv::Position::line),
                "header",
                "has another number of columns",
            )),
        };
        match taken {
            Ok(row) => found.push(row),
            Err(fault) => faults.push(fault),
        }
    }
    if found.is_empty() && faults.is_empty() {
        return in_header("there is no row below the header".to_owned());
    }
    if faults.is_empty() { Ok(found) } else { Err(faults) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults<T>(parsed: Result<Vec<T>, Vec<LineFault>>) -> Vec<(u64, &'static str)> {
        let faults = parsed.err().expect("it has faults");
        faults.iter().map(|fault| (fault.line, fault.column)).collect()
    }

    #[test]
    fn a_file_is_read_by_the_names_of_its_columns() {
        let text = "\u{feff}sku,product,price_minor,currency,title,active\r\ncup,Cup,500,EUR,\"A \"\"cup\"\"\",false\r\njug,Jug,1,JPY,J,\r\n";
        let rows = products(text).unwrap();
        assert_eq!((rows[0].line, &*rows[0].title, rows[0].is_active), (2, "A \"cup\"", Some(false)));
        assert_eq!((rows[1].line, rows[1].price_minor, rows[1].is_active), (3, 1, None));
        let rows = stock("sku,warehouse,quantity,reason\ncup,berlin,-3,broken\n", StockImport::Add).unwrap();
        assert_eq!((rows[0].quantity, rows[0].warehouse.as_str()), (-3, "berlin"));
    }

    #[test]
    fn every_fault_is_told_by_line_and_column() {
        let header = "product,sku,title,price_minor,currency,reservation\n";
        let text = format!(
            "{header}Cup,a b,C,1,EUR,\nCup,c,C,x,EUR,\nCup,d,C,1,euro,\nCup,e,C,1,EUR,luck\nCup,f,C,-1,EUR,\n\
             Cup,ok,C,1,EUR,tokens\nCup,ok,C,1,EUR,\nCup,g\n,h,C,1,EUR,\n"
        );
        let expected = [
            (2, "sku"),
            (3, "price_minor"),
            (4, "currency"),
            (5, "reservation"),
            (6, "price_minor"),
            (8, "sku"),
            (9, "header"),
            (10, "product"),
        ];
        assert_eq!(faults(products(&text)), expected);
        for bad in ["", "product,sku\n", "product,sku,title,price_minor,currency,colour\n", header] {
            assert_eq!(faults(products(bad)), [(1, "header")], "{bad:?}");
        }
        let text = "sku,warehouse,quantity,reason\ncup,Berlin,1,r\ncup,berlin,1.5,r\ncup,berlin,1,\ncup,berlin,-1,r\ncup,b,1,r\ncup,b,1,r\n";
        let expected = [(2, "warehouse"), (3, "quantity"), (4, "reason"), (5, "quantity"), (7, "sku")];
        assert_eq!(faults(stock(text, StockImport::Count)), expected);
    }
}
