/**
 * docs/access.md's lists, compared with the code: the predefined roles, the permissions, and which
 * method needs which.
 */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  isOfSystem,
  isPermission,
  PERMISSIONS,
  type Permission,
  PREDEFINED_ROLES,
} from '../src/access/permissions.ts';
import { ANY_CALLER } from '../src/calls/operation.ts';
import { RPCS } from '../src/faces/contract/rpcs.ts';

const FILE = join(import.meta.dirname, '..', 'docs', 'access.md');

/** Which methods need a permission, by their names without the package. */
const methodsOf = (wanted: Permission | typeof ANY_CALLER) =>
  Object.values(RPCS)
    .flatMap((rpcs) => Object.entries(rpcs))
    .filter(([, { operation }]) => operation.permission === wanted)
    .map(([name]) => name);

const code = (text: string) => `\`${text}\``;

function rolesTable(): string {
  const rows = Object.entries(PREDEFINED_ROLES).map(
    ([name, { description, permissions }]) =>
      `| ${code(name)} | ${description} | ${permissions.map(code).join(', ')} |`,
  );
  return ['| role | what for | permissions |', '|---|---|---|', ...rows, ''].join('\n');
}

function permissionsTable(): string {
  const names = Object.keys(PERMISSIONS).filter(isPermission);
  const rows = names.map((name) => {
    const roles = Object.entries(PREDEFINED_ROLES)
      .filter(([, { permissions }]) => (permissions as readonly Permission[]).includes(name))
      .map(([role]) => role);
    const mark = isOfSystem(name) ? ' (system)' : '';
    return `| ${code(name)}${mark} | ${methodsOf(name).join(', ')} | ${roles.join(', ')} |`;
  });
  const anybody = `| none | ${methodsOf(ANY_CALLER).join(', ')} | any caller |`;
  return ['| permission | methods | roles |', '|---|---|---|', ...rows, anybody, ''].join('\n');
}

/** The text with what is between the marks replaced. */
function withTable(text: string, mark: string, table: string): string {
  const begin = `<!-- ${mark}: written by UPDATE=1 npm test -- test/access-doc.test.ts -->\n`;
  const end = `<!-- /${mark} -->`;
  const [before, rest] = text.split(begin);
  const after = rest?.split(end)[1];
  assert.ok(before !== undefined && after !== undefined, `docs/access.md has no place for ${mark}`);
  return `${before}${begin}${table}${end}${after}`;
}

test('docs/access.md lists roles, permissions and methods as the code has them (UPDATE=1 writes it)', () => {
  const text = readFileSync(FILE, 'utf8');
  const expected = withTable(
    withTable(text, 'roles', rolesTable()),
    'permissions',
    permissionsTable(),
  );
  if (process.env['UPDATE'] === '1') writeFileSync(FILE, expected);
  assert.equal(readFileSync(FILE, 'utf8'), expected);
});

test('every permission is needed by a method, or asked for by a handler', () => {
  const asked: readonly Permission[] = [
    'data.reEncryptFrom',
    'roleBindings.createForAllTenants',
    'auditEntries.listForAllTenants',
  ];
  const idle = Object.keys(PERMISSIONS)
    .filter(isPermission)
    .filter((name) => methodsOf(name).length === 0 && !asked.includes(name));
  assert.deepEqual(idle, []);
});
