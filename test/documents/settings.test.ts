/**
 * docs/settings.md, compared with src/config.ts: every setting, in its group.
 */
import { test } from 'node:test';
import { item } from '../../bench/markdown.ts';
import { AGENT_HOST_SETTINGS, OWNER_SETTINGS, SETTINGS } from '../../src/config.ts';
import { assertWritten } from '../support/document.ts';

interface Row {
  readonly group: string;
  readonly description: string;
  readonly fallback?: string;
}

/** Names of documents in a description, as links from docs/. */
const linked = (text: string) => text.replaceAll(/docs\/([\w-]+\.md)(#[\w-]+)?/g, '[$1]($1$2)');

function settingsList(): string {
  const all: readonly (readonly [string, Row])[] = Object.entries({
    ...SETTINGS,
    ...OWNER_SETTINGS,
    ...AGENT_HOST_SETTINGS,
  });
  const groups = Map.groupBy(all, ([, { group }]) => group);
  return Array.from(
    groups,
    ([group, rows]) => `## ${group}\n\n${rows.map(line).join('\n')}\n`,
  ).join('\n');
}

function line([name, { description, fallback }]: readonly [string, Row]): string {
  const must = fallback === undefined ? 'required' : `default: ${fallback}`;
  return item(`**\`${name}\`** (${must}): ${linked(description)}.`);
}

test('docs/settings.md lists every setting as the code has it (UPDATE=1 writes it)', () => {
  const parts = [{ mark: 'settings', content: settingsList() }];
  assertWritten('docs/settings.md', 'test/documents/settings.test.ts', parts);
});
