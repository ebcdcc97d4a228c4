//! Files of products and of stock, as CSV (RFC 4180, UTF-8, with a header; also with semicolons or tabs): text into rows, and
//! everything that is wrong with them by line.

use std::collections::HashMap;

use csv::{ReaderBuilder, StringRecord, Trim};
use doorbuster_engine::domain::catalog::{CatalogRefused, check_price, is_name, is_sku, name_rule};
use doorbuster_engine::domain::imports::{FAULTS_TOLD, LineFault, ProductRow, ROWS_MAX, StockImport, StockRow};
use doorbuster_engine::domain::money::{Currency, Money};
use doorbuster_engine::domain::stock::{WarehouseCode, check_reason};

/// Ten thousand rows of two hundred bytes.
pub const FILE_BYTES: usize = 2 * 1024 * 1024;

/// `product,sku,title,price_minor,currency`, and if they are there `active,reservation`.
pub fn products(text: &str) -> Result<Vec<ProductRow>, Vec<LineFault>> {
    const REQUIRED: [&str; 5] = ["product", "sku", "title", "price_minor", "currency"];
    let mut seen = HashMap::new();
    rows(text, &REQUIRED, &["active", "reservation"], |row| {
        let currency = row.parse::<Currency>("currency");
        let price_minor = row.price("price_minor", currency);
        let (product, sku, title) = (row.name("product"), row.sku(), row.name("title"));
        let is_active = match &*row.text("active").to_lowercase() {
            "" => None,
            "true" => Some(true),
            "false" => Some(false),
            _ => {
                row.wrong("active", "must be true or false, or empty: then it stays");
                None
            }
        };
        let reservation = if row.text("reservation").is_empty() { None } else { row.parse("reservation") };
        let sku = sku?;
        if let Some(line) = seen.insert(sku.clone(), row.line) {
            row.wrong("sku", format!("{sku} stands in line {line} already"));
        }
        Some(ProductRow {
            line: row.line,
            product: product?,
            sku,
            title: title?,
            price_minor: price_minor?,
            currency: currency?,
            is_active,
            reservation,
        })
    })
}

/// `sku,warehouse,quantity,reason`.
pub fn stock(text: &str, mode: StockImport) -> Result<Vec<StockRow>, Vec<LineFault>> {
    let mut seen = HashMap::new();
    rows(text, &["sku", "warehouse", "quantity", "reason"], &[], |row| {
        let (sku, warehouse) = (row.sku(), row.parse::<WarehouseCode>("warehouse"));
        let (quantity, reason) = (row.whole("quantity"), row.text("reason"));
        if let Err(refused) = check_reason(&reason) {
            row.wrong("reason", refused);
        }
        let (sku, warehouse, quantity) = (sku?, warehouse?, quantity?);
        if mode == StockImport::Count {
            if quantity < 0 {
                row.wrong("quantity", "nobody counts fewer than 0");
            }
            if let Some(line) = seen.insert((sku.clone(), warehouse.clone()), row.line) {
                row.wrong("sku", format!("it was counted in line {line} already"));
            }
        }
        Some(StockRow { line: row.line, sku, warehouse, quantity, reason })
    })
}

/// One line, with the places of its columns, and all that is wrong with it.
struct Row<'a> {
    line: u64,
    record: &'a StringRecord,
    places: &'a HashMap<&'static str, usize>,
    faults: Vec<LineFault>,
}

impl Row<'_> {
    /// A column that the file does not have is empty.
    fn text(&self, column: &'static str) -> String {
        let place = self.places.get(column);
        place.and_then(|place| self.record.get(*place)).unwrap_or_default().to_owned()
    }

    fn parse<T: std::str::FromStr<Err: ToString>>(&mut self, column: &'static str) -> Option<T> {
        match self.text(column).parse() {
            Ok(parsed) => Some(parsed),
            Err(error) => self.fault(column, T::Err::to_string(&error)),
        }
    }

    fn whole(&mut self, column: &'static str) -> Option<i64> {
        let text = self.text(column);
        text.parse().ok().or_else(|| self.fault(column, format!("must be a whole number such as 12; it is {text:?}")))
    }

    /// A price in minor units. Most files that others have made have it in major ones.
    fn price(&mut self, column: &'static str, currency: Option<Currency>) -> Option<i64> {
        let text = self.text(column);
        match text.parse() {
            Ok(minor) => match currency.map_or(Ok(()), |currency| check_price(Money::new(minor, currency))) {
                Ok(()) => Some(minor),
                Err(CatalogRefused::Field(_, detail)) => self.fault(column, detail),
                Err(other) => self.fault(column, other),
            },
            Err(_) => {
                let meant =
                    currency.and_then(|currency| in_minor_units(&text, currency).map(|minor| (currency, minor)));
                match meant {
                    Some((currency, minor)) => self.fault(
                        column,
                        format!("{text} is not in minor units: if {text} {currency} is meant, write {minor}"),
                    ),
                    None => self.fault(column, format!("must be a whole number of minor units; it is {text:?}")),
                }
            }
        }
    }

    fn name(&mut self, column: &'static str) -> Option<String> {
        let text = self.text(column);
        if is_name(&text) { Some(text) } else { self.fault(column, name_rule()) }
    }

    fn sku(&mut self) -> Option<String> {
        let text = self.text("sku");
        if is_sku(&text) { Some(text) } else { self.fault("sku", "must be 1 to 64 visible ASCII characters") }
    }

    fn wrong(&mut self, column: &'static str, what: impl ToString) {
        self.faults.push(LineFault::new(self.line, column, what));
    }

    fn fault<T>(&mut self, column: &'static str, what: impl ToString) -> Option<T> {
        self.wrong(column, what);
        None
    }
}

/// `149.00` and `149,00`, if the currency has no more decimals than that.
fn in_minor_units(text: &str, currency: Currency) -> Option<i64> {
    let (major, decimals) = text.split_once(['.', ','])?;
    let missing = currency.exponent().checked_sub(u32::try_from(decimals.len()).ok()?)?;
    let digits = format!("{major}{decimals}");
    let is_number = !major.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number {
        return None;
    }
    digits.parse::<i64>().ok()?.checked_mul(10_i64.pow(missing))
}

/// The separator of a file: spreadsheets write the one of their country.
fn separator(header: &str) -> u8 {
    let count = |separator: u8| header.bytes().filter(|byte| *byte == separator).count();
    // The last of those that occur equally often.
    [b'\t', b';', b','].into_iter().max_by_key(|separator| count(*separator)).unwrap_or(b',')
}

/// Where each known column stands, or everything that is wrong with the header.
fn places(
    header: &StringRecord,
    required: &[&'static str],
    optional: &[&'static str],
) -> Result<HashMap<&'static str, usize>, Vec<LineFault>> {
    let is_there = |name: &str| header.iter().any(|column| column == name);
    if is_there("handle") && is_there("variant price") {
        return Err(vec![LineFault::new(
            1,
            "header",
            format!(
                "this is an export of Shopify's. Make a file with the columns {}: `Title` is product, `Variant SKU` sku, \
                 `Option1 Value` title, and `Variant Price` times 100 price_minor",
                required.join(", ")
            ),
        )]);
    }
    let (mut places, mut unknown, mut faults) = (HashMap::new(), Vec::new(), Vec::new());
    let mut wrong = |what: String| faults.push(LineFault::new(1, "header", what));
    for (place, name) in header.iter().enumerate() {
        match required.iter().chain(optional).find(|known| **known == name) {
            // A spreadsheet's columns without anything in them.
            None if name.is_empty() => {}
            None => unknown.push(format!("{name:?}")),
            Some(known) => {
                if places.insert(*known, place).is_some() {
                    wrong(format!("the column {known} is there twice"));
                }
            }
        }
    }
    if !unknown.is_empty() {
        let known = [required, optional].concat().join(", ");
        wrong(format!("there are no columns {}; there are {known}", unknown.join(", ")));
    }
    let missing = required.iter().filter(|name| !places.contains_key(*name)).copied().collect::<Vec<_>>();
    if !missing.is_empty() {
        wrong(format!("these columns are missing: {}", missing.join(", ")));
    }
    if faults.is_empty() { Ok(places) } else { Err(faults) }
}

fn rows<T>(
    text: &str,
    required: &[&'static str],
    optional: &[&'static str],
    mut take: impl FnMut(&mut Row<'_>) -> Option<T>,
) -> Result<Vec<T>, Vec<LineFault>> {
    let in_header = |what: String| Err(vec![LineFault::new(1, "header", what)]);
    // Spreadsheets begin a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // The reader counts lines by their last byte, and would be one behind with two of them.
    let text = text.replace("\r\n", "\n");
    let first = text.lines().next().unwrap_or_default();
    let mut reader =
        ReaderBuilder::new().trim(Trim::All).delimiter(separator(first)).flexible(true).from_reader(text.as_bytes());
    let header = match reader.headers() {
        Ok(header) => header.iter().map(str::to_lowercase).collect::<StringRecord>(),
        Err(error) => return in_header(error.to_string()),
    };
    let places = places(&header, required, optional)?;
    let (mut found, mut faults) = (Vec::new(), Vec::new());
    for record in reader.records() {
        if faults.len() >= FAULTS_TOLD {
            break;
        }
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                let line = error.position().map_or(0, csv::Position::line);
                faults.push(LineFault::new(line, "header", "it cannot be read: is it UTF-8?"));
                continue;
            }
        };
        // What a spreadsheet writes of rows that were emptied.
        if record.iter().all(str::is_empty) {
            continue;
        }
        let line = record.position().map_or(0, csv::Position::line);
        if found.len() >= ROWS_MAX {
            faults.push(LineFault::new(line, "header", format!("a file has at most {ROWS_MAX} rows")));
            break;
        }
        let columns = header.len();
        if record.len() != columns {
            let what = format!("has {} columns, and the header {columns}", record.len());
            faults.push(LineFault::new(line, "header", what));
            continue;
        }
        let mut row = Row { line, record: &record, places: &places, faults: Vec::new() };
        let taken = take(&mut row);
        faults.append(&mut row.faults);
        found.extend(taken);
    }
    if found.is_empty() && faults.is_empty() {
        return in_header("there is no row below the header".to_owned());
    }
    faults.truncate(FAULTS_TOLD);
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
        // All of a line, and all of a header.
        let text = format!("{header}\"\",a b,,x,euro,luck\n");
        let of_line = ["currency", "price_minor", "product", "sku", "title", "reservation"].map(|column| (2, column));
        assert_eq!(faults(products(&text)), of_line);
        let told = products("sku,colour,size,sku\n").unwrap_err();
        let told = told.iter().map(|fault| &*fault.what).collect::<Vec<_>>();
        let expected = [
            "the column sku is there twice",
            "there are no columns \"colour\", \"size\"; there are product, sku, title, price_minor, currency, active, reservation",
            "these columns are missing: product, title, price_minor, currency",
        ];
        assert_eq!(told, expected);
        let text = "sku,warehouse,quantity,reason\ncup,Berlin,1,r\ncup,berlin,1.5,r\ncup,berlin,1,\ncup,berlin,-1,r\ncup,b,1,r\ncup,b,1,r\n";
        let expected = [(2, "warehouse"), (3, "quantity"), (4, "reason"), (5, "quantity"), (5, "sku"), (7, "sku")];
        assert_eq!(faults(stock(text, StockImport::Count)), expected);
    }

    #[test]
    fn what_spreadsheets_of_other_countries_write_is_read() {
        for text in [
            "product;sku;title;price_minor;currency\nCup, small;cup;S;500;EUR\n",
            "Product\tSKU\tTitle\tPrice_minor\tCurrency\nCup, small\tcup\tS\t500\tEUR\n",
            "product,sku,title,price_minor,currency,,\n,,,,,,\n\"Cup, small\",cup,S,500,EUR,,\n,,,,,,\n",
        ] {
            let rows = products(text).unwrap_or_else(|faults| panic!("{text}: {faults:?}"));
            assert_eq!((rows.len(), &*rows[0].product, rows[0].price_minor), (1, "Cup, small", 500), "{text}");
        }
        let faulty = "product;sku;title;price_minor;currency\n;;;;\nCup;a b;S;500;EUR\n";
        assert_eq!(faults(products(faulty)), [(3, "sku")], "blank rows count as lines");
    }

    #[test]
    fn a_price_in_major_units_is_told_with_what_to_write() {
        let told = |price: &str, currency: &str| {
            let text = format!("product;sku;title;price_minor;currency\nCup;c;S;{price};{currency}\n");
            products(&text).unwrap_err()[0].what.clone()
        };
        for (price, currency, minor) in [
            ("149.00", "EUR", "write 14900"),
            ("149,9", "EUR", "write 14990"),
            ("1.010", "KWD", "write 1010"),
            ("149.", "JPY", "write 149"),
        ] {
            assert!(told(price, currency).ends_with(minor), "{}", told(price, currency));
        }
        for (price, currency) in [("149.00", "JPY"), ("1.499,00", "EUR"), ("x", "EUR"), ("", "EUR"), ("1e2", "EUR")] {
            assert!(told(price, currency).starts_with("must be a whole number of minor units"), "{price}");
        }
    }

    #[test]
    fn an_export_of_another_shop_is_named_with_what_its_columns_are() {
        let header = "Handle,Title,Body (HTML),Vendor,Option1 Name,Option1 Value,Variant SKU,Variant Price,Status\n";
        let told = products(header).unwrap_err();
        assert!(told.len() == 1 && told[0].what.contains("Shopify") && told[0].what.contains("`Variant SKU` sku"));
    }
}
