/**
 * Encrypted columns with Kysely: sealed before they are inserted, and opened by a plugin in what
 * queries return.
 *
 * - A column of the type `Encrypted` takes nothing but what {@link EncryptedColumns.seal} returns,
 *   so that the compiler refuses to insert it as it is.
 * - A query that returns such a column must return what it is bound to: the row's id, and what the
 *   context is made of.
 */
import type { Envelope, FieldOptions } from 'keyward-client';
import type {
  ColumnType,
  KyselyPlugin,
  PluginTransformQueryArgs,
  PluginTransformResultArgs,
} from 'kysely';

/** A column that is a value in the program and an envelope (bytea) in the database. */
export type Encrypted<Value> = ColumnType<Value, Buffer, Buffer>;

/** Which columns of a row are encrypted, and what they are bound to. */
export type BindingOf<Row, Field extends string> = (row: Row) => FieldOptions<Field>;

/** Seals columns, and opens them in results. */
export class EncryptedColumns<Row extends object, Field extends keyof Row & string>
  implements KyselyPlugin
{
  readonly #box: Envelope;
  readonly #bindingOf: BindingOf<Row, Field>;

  constructor(box: Envelope, bindingOf: BindingOf<Row, Field>) {
    this.#box = box;
    this.#bindingOf = bindingOf;
  }

  /** Returns the row as it is inserted. */
  seal(row: Row) {
    return this.#box.encryptFields(row, this.#bindingOf(row)) as Promise<
      Omit<Row, Field> & Record<Field, Buffer>
    >;
  }

  transformQuery({ node }: PluginTransformQueryArgs) {
    return node;
  }

  async transformResult({ result }: PluginTransformResultArgs) {
    const open = (row: object) => this.#box.decryptFields(row as Row, this.#bindingOf(row as Row));
    return { ...result, rows: await Promise.all(result.rows.map(open)) };
  }
}
