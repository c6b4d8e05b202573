/**
 * The examples, on the real service and on what each is an example for: PostgreSQL, and a server
 * that speaks S3's protocol to the AWS SDK.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { GetObjectCommand, PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { type FauxqsServer, startFauxqs } from 'fauxqs';
import { Kysely, PostgresDialect } from 'kysely';
import pg from 'pg';
import { type Encrypted, EncryptedColumns } from '../../examples/kysely-columns.ts';
import { type Order, ordersIn } from '../../examples/postgres-rows.ts';
import { get, put } from '../../examples/s3-streams.ts';
import { reasonOf, sharedService } from '../support/kit.ts';

const KEY = 'tenants/shop/keys/rows';
const ORDER: Order = { id: 'o-1', customer: 'c-7', card: '4111 1111', notes: ['gift', 'fragile'] };

let db: pg.Pool;
// Before the database is dropped.
after(() => db.end());
const shared = sharedService(async (keyward) => {
  await keyward.createTenant({ tenantId: 'shop' });
  await keyward.createKey({ parent: 'tenants/shop', keyId: 'rows' });
  // A database beside the service's own, on the same server.
  const { superuser } = shared.environment.urls;
  db = new pg.Pool({ connectionString: superuser, options: '-c search_path=example' });
  await db.query('CREATE SCHEMA example');
  await db.query(
    'CREATE TABLE orders (id text PRIMARY KEY, customer text, card bytea, notes bytea)',
  );
});

describe('rows of PostgreSQL', () => {
  it('come back as they were, and no column has their content', async () => {
    const orders = ordersIn(db, shared.keyward, KEY);
    await orders.insert(ORDER);
    await orders.insert({ ...ORDER, id: 'o-2', customer: 'c-8', notes: null });
    assert.deepEqual(await orders.find('o-1'), ORDER);
    assert.equal((await orders.find('o-2'))?.notes, null);
    assert.equal(await orders.find('o-3'), undefined);
    const { rows } = await db.query('SELECT * FROM orders');
    assert.doesNotMatch(JSON.stringify(rows.map(({ card }) => card.toString('latin1'))), /4111/);
  });

  it('do not open with a field of another row, nor for another customer', async () => {
    const orders = ordersIn(db, shared.keyward, KEY);
    await orders.insert({ ...ORDER, id: 'o-4' });
    await db.query(
      "UPDATE orders SET card = (SELECT card FROM orders WHERE id = 'o-1') WHERE id = 'o-4'",
    );
    await assert.rejects(orders.find('o-4'), { name: 'EnvelopeError', reason: 'NOT_AUTHENTIC' });
    await db.query("UPDATE orders SET customer = 'c-9' WHERE id = 'o-1'");
    assert.equal(await reasonOf(orders.find('o-1')), 'DECRYPTION_FAILED');
  });
});

describe('encrypted columns with Kysely', () => {
  interface Database {
    readonly orders: {
      readonly id: string;
      readonly customer: string;
      readonly card: Encrypted<string>;
    };
  }
  type Row = Pick<Order, 'id' | 'customer' | 'card'>;

  it('are sealed before an insert, and opened in what queries return', async () => {
    const box = shared.keyward.envelope({ key: KEY, cache: { maxAgeMs: 60_000 } });
    const columns = new EncryptedColumns(box, ({ id, customer }: Row) => ({
      ...{ fields: ['card'] as const, id, context: { customer } },
    }));
    const bare = new Kysely<Database>({ dialect: new PostgresDialect({ pool: db }) });
    const orders = bare.withPlugin(columns);
    const row = { id: 'k-1', customer: 'c-7', card: '5500 0000' };
    const returned = await orders
      .insertInto('orders')
      .values(await columns.seal(row))
      .returning(['id', 'customer', 'card'])
      .executeTakeFirst();
    assert.deepEqual(returned, row);
    const select = (from: typeof orders) =>
      from.selectFrom('orders').select(['id', 'customer', 'card']).where('id', '=', 'k-1');
    assert.deepEqual(await select(orders).execute(), [row]);
    const stored = await select(bare).executeTakeFirstOrThrow();
    assert.ok(Buffer.isBuffer(stored.card));
    const { numDeletedRows } = await orders.deleteFrom('orders').executeTakeFirstOrThrow();
    assert.ok(numDeletedRows > 0n);
  });
});

describe('objects of S3', () => {
  let server: FauxqsServer;
  let s3: S3Client;
  const place = { Bucket: 'archive', Key: 'chats/1' };

  before(async () => {
    server = await startFauxqs({ port: 0, logger: false });
    server.createBucket(place.Bucket);
    s3 = new S3Client({
      endpoint: server.address,
      region: 'us-east-1',
      forcePathStyle: true,
      credentials: { accessKeyId: 'test', secretAccessKey: 'test' },
    });
  });
  after(async () => {
    s3.destroy();
    await server.stop();
  });

  it('come back as they were, of more than one part', async () => {
    const box = shared.keyward.envelope({ key: KEY });
    const content = randomBytes(6 * 2 ** 20);
    await put(s3, box, place, Readable.from(inPieces(content)));
    assert.ok((await buffer(await get(s3, box, place))).equals(content));
    const { Body } = await s3.send(new GetObjectCommand(place));
    assert.equal(
      (await Body?.transformToByteArray())?.length,
      content.length + 7 + 148 + 64 + 96 * 16,
    );
  });

  it('do not open in the place of another, nor cut, and none is there of a source that failed', async () => {
    const box = shared.keyward.envelope({ key: KEY });
    await put(s3, box, place, Readable.from(inPieces(randomBytes(100_000))));
    const { Body } = await s3.send(new GetObjectCommand(place));
    const sealed = (await Body?.transformToByteArray()) ?? Buffer.alloc(0);
    const moved = { ...place, Key: 'chats/2' };
    await s3.send(new PutObjectCommand({ ...moved, Body: sealed }));
    assert.equal(await reasonOf(buffer(await get(s3, box, moved))), 'DECRYPTION_FAILED');
    await s3.send(new PutObjectCommand({ ...place, Body: sealed.subarray(0, -1) }));
    await assert.rejects(buffer(await get(s3, box, place)), { name: 'EnvelopeError' });

    const broken = Readable.from(failing());
    const never = { ...place, Key: 'chats/3' };
    await assert.rejects(put(s3, box, never, broken), /the source failed/);
    await assert.rejects(get(s3, box, never), { name: 'NoSuchKey' });
  });
});

function* inPieces(bytes: Buffer, size = 50_000): Iterable<Buffer> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

function* failing(): Iterable<Buffer> {
  yield Buffer.alloc(100_000);
  throw new Error('the source failed');
}
