/**
 * How values of Postgres are read: as `pg` does, but that bytes have memory of their own.
 *
 * What Node takes of its pool shares 64 KiB with whatever came before and after, and keeps all of
 * that for as long as it is kept itself: a key in a cache would cost as much.
 */
import pg from 'pg';

const BYTEA = pg.types.builtins.BYTEA;

/** What a connection is given. */
export const TYPES: pg.CustomTypesConfig = {
  getTypeParser: (oid, format) =>
    oid === BYTEA && format !== 'binary' ? ownBytes : pg.types.getTypeParser(oid, format),
};

/** Reads `\x` and digits, as sessions are told to write them; one of a pooler's may not do so. */
function ownBytes(text: string): Buffer {
  if (!text.startsWith('\\x')) return pg.types.getTypeParser(BYTEA, 'text')(text) as Buffer;
  const bytes = Buffer.allocUnsafeSlow(text.length / 2 - 1);
  bytes.write(text.slice(2), 'hex');
  return bytes;
}
