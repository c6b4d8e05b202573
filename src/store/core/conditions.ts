/**
 * Conditions on lists: what a caller's filter asks for, as SQL.
 *
 * Only columns that a list names can be asked about, and every value is a parameter. Doesn't know
 * how filters are written.
 */

/** One term of a filter; all of them must hold. */
export interface Condition {
  /** A field of the list, as `state` or `labels`. */
  readonly field: string;
  /** Which label, where the field is a map. */
  readonly member?: string;
  readonly operator: '=' | '!=';
  readonly value: string;
}

/**
 * The SQL for each field that a list can be asked about; `member` stands for the parameter that
 * names the member.
 */
export type FilterColumns = Readonly<Record<string, (member: string) => string>>;

/**
 * The conditions as ` AND …`, their values added to `values`. A field without a column is a fault
 * of ours.
 */
export function whereClause(
  conditions: readonly Condition[],
  columns: FilterColumns,
  values: unknown[],
): string {
  const parameter = (value: string) => `$${values.push(value)}`;
  return conditions
    .map(({ field, member, operator, value }) => {
      const column = columns[field];
      if (column === undefined) throw new Error(`a list has no column for ${field}`);
      const expression = column(member === undefined ? '' : parameter(member));
      return ` AND ${expression} IS ${operator === '=' ? 'NOT ' : ''}DISTINCT FROM ${parameter(value)}`;
    })
    .join('');
}
