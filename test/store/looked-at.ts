/**
 * The statements of `src/store/`, listed from the source, and looked at as they run: which function
 * sent one, how Postgres would run it, and how many rows it read.
 *
 * A statement is called `file.ts function`, by the function at the top of its file that it stands
 * in. While {@link lookAt} is on, each statement that goes to a database through `Connection` is
 * explained before it runs, as it is and as a plan for any values.
 */
import { globSync, readFileSync } from 'node:fs';
import { join, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { monotonicNow } from '../../src/call.ts';
import { Connection } from '../../src/store/core/connections.ts';

const STORE = fileURLToPath(new URL('../../src/store/', import.meta.url));
/** The transactions' own: these open and close them, and hand on what others say. */
const HANDS_ON = ['store.ts', 'core/'];
const SENDS = /\b(?:query|queryReserve|queryPrimary|selectTenants)[<(]/;
const TOP = /^(?:export )?(?:async )?(?:function|const|class) (\w+)/;
const READS_OR_WRITES = /^[\s(]*(?:SELECT|INSERT|UPDATE|DELETE|WITH)\b/;
const EXPLAIN_MS = 60_000;

/** Each line of a file, and the function that it stands in. */
const functionsOf = new Map<string, readonly string[]>();

function readFunctions(file: string): readonly string[] {
  let name = '';
  return readFileSync(join(STORE, file), 'utf8')
    .split('\n')
    .map((line) => {
      name = TOP.exec(line)?.[1] ?? name;
      return name;
    });
}

/** All functions of `src/store/` that send statements of their own. */
export function listStatements(): string[] {
  const all = new Set<string>();
  for (const file of globSync('**/*.ts', { cwd: STORE }).map((each) => each.replaceAll(sep, '/'))) {
    const names = readFunctions(file);
    functionsOf.set(file, names);
    if (HANDS_ON.some((prefix) => file.startsWith(prefix))) continue;
    for (const [index, line] of readFileSync(join(STORE, file), 'utf8').split('\n').entries())
      if (SENDS.test(line) && !line.trimStart().startsWith('*')) all.add(`${file} ${names[index]}`);
  }
  return [...all].sort();
}

/** A node of a plan, as EXPLAIN has it. */
export interface PlanNode {
  readonly 'Node Type': string;
  readonly 'Relation Name'?: string;
  readonly 'Index Name'?: string;
  readonly 'Index Cond'?: string;
  readonly Plans?: readonly PlanNode[];
}

/** A statement that ran. */
export interface Looked {
  readonly statement: string;
  readonly text: string;
  /** For these values, and for any. */
  readonly plans: readonly PlanNode[];
  /** Of all tables, where it is in a transaction; else 0. */
  readonly rowsRead: number;
}

/** Runs `work`, and tells of each statement that it sends. */
export async function lookAt(work: () => Promise<void>): Promise<Looked[]> {
  const looked: Looked[] = [];
  const { query } = Connection.prototype;
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = 50;
  Connection.prototype.query = async function looking(this: Connection, text, values, deadline) {
    const statement = senderOf(new Error().stack ?? '');
    if (statement === undefined || !READS_OR_WRITES.test(text))
      return query.call(this, text, values, deadline) as never;
    const run = async (sql: string, parameters: readonly unknown[] = []) =>
      (await query.call(this, sql, parameters, monotonicNow() + EXPLAIN_MS)).rows;
    const plans = await plansOf(run, text, values);
    const before = await rowsReadBy(run);
    const result = await query.call(this, text, values, deadline);
    looked.push({ statement, text, plans, rowsRead: (await rowsReadBy(run)) - before });
    return result as never;
  };
  try {
    await work();
  } finally {
    Connection.prototype.query = query;
    Error.stackTraceLimit = limit;
  }
  return looked;
}

/** The nearest function of the store's that is not one that hands on. */
function senderOf(stack: string): string | undefined {
  for (const [, file = '', line = ''] of stack.matchAll(/src\/store\/([\w/-]+\.ts):(\d+)/g)) {
    if (HANDS_ON.some((prefix) => file.startsWith(prefix))) continue;
    const name = functionsOf.get(file)?.[Number(line) - 1];
    if (name !== undefined) return `${file} ${name}`;
  }
  return undefined;
}

type Run = (sql: string, values?: readonly unknown[]) => Promise<pg.QueryResultRow[]>;

async function plansOf(run: Run, text: string, values: readonly unknown[]): Promise<PlanNode[]> {
  const planOf = (rows: pg.QueryResultRow[]) => rows[0]?.['QUERY PLAN'][0].Plan as PlanNode;
  const plan = planOf(await run(`EXPLAIN (FORMAT JSON) ${text}`, values));
  const given = values.length === 0 ? '' : `(${values.map(literal).join(', ')})`;
  await run(`PREPARE looked AS ${text}`);
  await run('SET plan_cache_mode = force_generic_plan');
  const generic = planOf(await run(`EXPLAIN (FORMAT JSON) EXECUTE looked${given}`));
  await run('RESET plan_cache_mode');
  await run('DEALLOCATE looked');
  return [plan, generic];
}

/** A value as pg sends it: of no type, so that it has that of its place. */
function literal(value: unknown): string {
  return value === null || value === undefined ? 'NULL' : pg.escapeLiteral(textOf(value));
}

function textOf(value: unknown): string {
  if (Buffer.isBuffer(value)) return `\\x${value.toString('hex')}`;
  if (value instanceof Date) return value.toISOString();
  if (!Array.isArray(value)) return String(value);
  const elements = value.map((each) =>
    each === null || each === undefined
      ? 'NULL'
      : `"${textOf(each).replaceAll(/["\\]/g, (character) => `\\${character}`)}"`,
  );
  return `{${elements.join(',')}}`;
}

/** Rows that this transaction has read so far. */
async function rowsReadBy(run: Run): Promise<number> {
  const [row] = await run(
    `SELECT coalesce(sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)), 0)::float8 AS count
     FROM pg_stat_xact_user_tables`,
  );
  return row?.['count'] as number;
}
