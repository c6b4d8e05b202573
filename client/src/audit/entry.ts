/**
 * An audit entry's leaf, read.
 *
 * Its invariant: leaves are passed on byte for byte; what they prove is for the caller to find out.
 */
import type * as m from '../messages.ts';

/**
 * What an entry says; one of a later version says what it has in common with version 1, and more.
 * Throws a TypeError when it isn't a JSON object with a version.
 */
export function readAuditEntry({ leaf }: Pick<m.AuditEntry, 'leaf'>): m.AuditEntryContent {
  let content: unknown;
  try {
    content = JSON.parse(leaf.toString());
  } catch (cause) {
    throw new TypeError('the entry is not JSON', { cause });
  }
  if (
    typeof content !== 'object' ||
    content === null ||
    !('v' in content) ||
    !Number.isInteger(content.v)
  )
    throw new TypeError('the entry has no version');
  return content as m.AuditEntryContent;
}
