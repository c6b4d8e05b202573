/**
 * Runs the hot statements in a large environment, and says what is wrong with their plans.
 */
import { migratedDatabase } from './database.ts';
import { runHot } from './hot-statements.ts';
import { type Looked, listStatements, lookAt, type PlanNode } from './looked-at.ts';
import { type Amounts, fillWithMany } from './many-rows.ts';
import { HOT, LARGE, READS_MUCH, READS_WHOLE } from './statement-classes.ts';

/** A batch, and what is looked up besides. */
const FEW = 1_000;

/** Returns what each statement does that it may not, in words; nothing where all is well. */
export async function costsOfHot(amounts: Amounts): Promise<string[]> {
  listStatements();
  await using database = await migratedDatabase();
  const subject = await fillWithMany(database, amounts);
  const store = await database.open();
  const looked = await lookAt(() => runHot(store, subject)).finally(() => store.close());
  const seen = new Set(looked.map(({ statement }) => statement));
  const missed = Object.keys(HOT).filter((statement) => !seen.has(statement));
  const unexpected = looked.filter(({ statement }) => HOT[statement] === undefined);
  return [
    ...missed.map((statement) => `${statement} was not run`),
    ...new Set(unexpected.map(({ statement }) => `${statement} was run and is not known as hot`)),
    ...new Set(looked.flatMap(faultsOf)),
  ];
}

function faultsOf(looked: Looked): string[] {
  const { statement, rowsRead } = looked;
  const nodes = looked.plans.flatMap((plan) => allOf(plan, false));
  const indexes = (HOT[statement] ?? '').split(' ');
  const whole = (READS_WHOLE[statement] ?? '').split(' ');
  const scans = nodes.filter((node) => node['Node Type'] === 'Seq Scan');
  const byIndex = nodes.filter((node) => isLarge(node['Index Name']));
  return [
    ...scans
      .map((node) => node['Relation Name'] ?? '')
      .filter((table) => isLarge(table) && !whole.includes(table))
      .map((table) => `${statement} reads ${table} to its end`),
    ...byIndex
      .filter((node) => !indexes.includes(nameOf(node)))
      .map((node) => `${statement} reads by ${nameOf(node)}`),
    ...byIndex
      .filter((node) => node['Index Cond'] === undefined && !node.isLimited)
      .filter((node) => !whole.includes(nameOf(node)))
      .map((node) => `${statement} reads all of ${nameOf(node)}`),
    ...(rowsRead > FEW && READS_MUCH[statement] === undefined
      ? [`${statement} reads ${rowsRead} rows`]
      : []),
  ];
}

/** A node, and whether what is above it takes a bounded number of its rows. */
type Placed = PlanNode & { readonly isLimited: boolean };

function allOf(node: PlanNode, isLimited: boolean): Placed[] {
  const isBelow = isLimited || node['Node Type'] === 'Limit';
  return [{ ...node, isLimited }, ...(node.Plans ?? []).flatMap((each) => allOf(each, isBelow))];
}

/** Partitions of the log are called `audit_log_<number>`. */
function nameOf(node: PlanNode): string {
  return (node['Index Name'] ?? '').replace(/^audit_log_\d+_/, 'audit_log_');
}

function isLarge(name = ''): boolean {
  return LARGE.some((table) => name === table || name.startsWith(`${table}_`));
}
