//! Files of products and of stock: all of one or nothing.

use doorbuster_engine::domain::imports::{ImportEnd, Imported, LineFault, ProductRow, SameFile, StockImport, StockRow};
use doorbuster_engine::domain::requests::{Done, OperatorRequest, RequestId};
use doorbuster_engine::domain::stock::StockWay;

use crate::harness::World;
use crate::shelves::{audited, fill, ordered, put_on_shelves, serve_everywhere, stock};

fn request(key: &str) -> OperatorRequest {
    OperatorRequest { id: RequestId::new("ada", &key.parse().unwrap()), actor: "ada".to_owned() }
}

fn product(line: u64, product: &str, sku: &str, price_minor: i64) -> ProductRow {
    ProductRow {
        line,
        product: product.to_owned(),
        sku: sku.to_owned(),
        title: sku.to_uppercase(),
        price_minor,
        currency: "EUR".parse().unwrap(),
        is_active: None,
        reservation: None,
    }
}

async fn products(world: &World, key: &str, rows: &[ProductRow]) -> ImportEnd {
    world.engine.ledger.import_products(&request(key), rows, false, world.engine.clock.now()).await.unwrap()
}

fn counts(created: usize, changed: usize, unchanged: usize) -> ImportEnd {
    ImportEnd::Done(Done::Now(Imported { created, changed, unchanged }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_products_makes_changes_and_leaves_alone() {
    let world = World::new().await;
    let rows = [product(2, "Cup", "cup-s", 500), product(3, "Cup", "cup-l", 700), product(4, "Bowl", "bowl", 900)];
    assert_eq!(products(&world, "a", &rows).await, counts(3, 0, 0));
    let again = Imported { created: 3, changed: 0, unchanged: 0 };
    assert_eq!(products(&world, "a", &rows).await, ImportEnd::Done(Done::Before(again)));
    assert_eq!(products(&world, "a", &rows[..1]).await, ImportEnd::IdReused);
    let warehouses = ProductRow { reservation: Some(StockWay::Warehouses), ..product(4, "Bowl", "bowl", 900) };
    let off = ProductRow { is_active: Some(false), ..product(3, "Cup", "cup-l", 700) };
    let next = [product(2, "Cup", "cup-s", 500), off, warehouses, product(5, "Plate", "plate", 100)];
    assert_eq!(products(&world, "b", &next).await, counts(1, 2, 1));
    let found = world.engine.ledger.products(None, 10, false).await.unwrap();
    let seen = found.iter().map(|product| {
        let variants =
            product.variants.iter().map(|v| (&*v.sku, v.price.amount_minor, v.is_active)).collect::<Vec<_>>();
        (&*product.name, product.version.0, product.reservation, variants)
    });
    let expected = [
        ("Cup", 2, StockWay::RowLock, vec![("cup-l", 700, false), ("cup-s", 500, true)]),
        ("Bowl", 2, StockWay::Warehouses, vec![("bowl", 900, true)]),
        ("Plate", 1, StockWay::RowLock, vec![("plate", 100, true)]),
    ];
    assert!(
        seen.clone().eq(expected.iter().map(|(n, v, w, r)| (*n, *v, *w, r.clone()))),
        "{:?}",
        seen.collect::<Vec<_>>()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_faults_changes_nothing_and_tells_every_one() {
    let world = World::new().await;
    products(&world, "a", &[product(2, "Cup", "cup", 500)]).await;
    let dollars = ProductRow { currency: "USD".parse().unwrap(), ..product(3, "Cup", "cup", 500) };
    let rows = [product(2, "Jug", "jug", 100), dollars, product(4, "Mug", "cup", 500)];
    let fault = |line, column, what: &str| LineFault::new(line, column, what);
    let expected =
        vec![fault(3, "currency", "the SKU cup is sold in EUR"), fault(4, "product", "the SKU cup is one of Cup")];
    assert_eq!(products(&world, "b", &rows).await, ImportEnd::Refused(expected));
    assert_eq!(world.count("select count(*) from variants").await, 1);
    // Refused, the same id may bring a mended file; a trial leaves nothing either.
    let now = world.engine.clock.now();
    let tried = world.engine.ledger.import_products(&request("b"), &rows[..1], true, now).await.unwrap();
    assert_eq!(tried, ImportEnd::Tried(Imported { created: 1, ..Imported::default() }));
    assert_eq!(world.count("select count(*) from variants").await, 1);
    assert_eq!(products(&world, "b", &rows[..1]).await, counts(1, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_files_at_once_make_one_product_of_a_name() {
    let world = World::new().await;
    let (one, two) = ([product(2, "Cup", "cup-s", 500)], [product(2, "Cup", "cup-l", 500)]);
    let ends = tokio::join!(products(&world, "a", &one), products(&world, "b", &two));
    assert_eq!(ends, (counts(1, 0, 0), counts(1, 0, 0)));
    assert_eq!(world.count("select count(*) from products").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_is_added_or_counted_and_never_below_what_is_reserved() {
    let world = World::new().await;
    serve_everywhere(&world).await;
    let mug = put_on_shelves(&world, "mug", StockWay::RowLock, &[5, 0]).await;
    let row = |line, sku: &str, place: &str, quantity| StockRow {
        line,
        sku: sku.to_owned(),
        warehouse: place.parse().unwrap(),
        quantity,
        reason: "a file".to_owned(),
    };
    let import = async |key: &str, rows: &[StockRow], mode| {
        let (ledger, now) = (&world.engine.ledger, world.engine.clock.now());
        ledger.import_stock(&request(key), rows, mode, SameFile::Refused, false, now).await.unwrap()
    };
    let rows = [row(2, "mug", "place-1", 4), row(3, "mug", "place-0", -1), row(4, "mug", "place-1", -2)];
    assert_eq!(import("a", &rows, StockImport::Add).await, counts(0, 3, 0));
    assert_eq!(stock(&world, "mug").await, (6, 0));
    // The same file under another id: told, unless its units came once more.
    let ImportEnd::Refused(faults) = import("a2", &rows, StockImport::Add).await else { panic!() };
    assert!(faults.len() == 1 && faults[0].what.starts_with("ada has added this very file at "), "{faults:?}");
    let (ledger, now) = (&world.engine.ledger, world.engine.clock.now());
    let tried = ledger.import_stock(&request("a3"), &rows, StockImport::Add, SameFile::Again, true, now).await.unwrap();
    assert_eq!(tried, ImportEnd::Tried(Imported { changed: 3, ..Imported::default() }));
    assert_eq!(stock(&world, "mug").await, (6, 0));
    // Three are reserved in the first place, which has four.
    let buyer = fill(&world, 1, &[(mug, 3)]).await;
    ordered(&world, &buyer, "a").await;
    let bad = [row(2, "jug", "place-0", 1), row(3, "mug", "nowhere", 1), row(4, "mug", "place-0", 2)];
    let ImportEnd::Refused(faults) = import("b", &bad, StockImport::Count).await else { panic!() };
    let seen = faults.iter().map(|fault| (fault.line, fault.column)).collect::<Vec<_>>();
    assert_eq!(seen, [(2, "sku"), (3, "warehouse"), (4, "quantity")], "{faults:?}");
    let counted = [row(2, "mug", "place-0", 3), row(3, "mug", "place-1", 2)];
    assert_eq!(import("b", &counted, StockImport::Count).await, counts(0, 1, 1));
    assert_eq!(stock(&world, "mug").await, (5, 3));
    assert_eq!(world.engine.ledger.stock_history(Some("mug"), None, 10).await.unwrap().len(), 5);
    audited(&world).await;
}
