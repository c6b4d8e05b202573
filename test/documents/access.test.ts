/**
 * docs/access.md's lists, compared with the code: the predefined roles, the permissions, and which
 * method needs which.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { COLUMNS, item } from '../../bench/markdown.ts';
import {
  isDangerous,
  isOfSystem,
  isPermission,
  PERMISSIONS,
  type Permission,
  PREDEFINED_ROLES,
} from '../../src/access/permissions.ts';
import { ANY_CALLER } from '../../src/calls/operation.ts';
import { RPCS } from '../../src/faces/contract/rpcs.ts';
import { assertWritten } from '../support/document.ts';

/** Which methods need a permission, by their names without the package. */
const methodsOf = (wanted: Permission | typeof ANY_CALLER) =>
  Object.values(RPCS)
    .flatMap((rpcs) => Object.entries(rpcs))
    .filter(([, { operation }]) => operation.permission === wanted)
    .map(([name]) => name);

const code = (text: string) => `\`${text}\``;

const rolesList = () =>
  Object.entries(PREDEFINED_ROLES)
    .map(([name, { description, permissions }]) =>
      item(`**${code(name)}**: ${description} Permissions: ${permissions.map(code).join(', ')}.`),
    )
    .join('\n');

function permissionsTable(names: readonly Permission[]): string {
  const rows = names.map((name) => {
    const roles = Object.entries(PREDEFINED_ROLES)
      .filter(([, { permissions }]) => (permissions as readonly Permission[]).includes(name))
      .map(([role]) => role);
    const mark = isDangerous(name) ? ' (dangerous)' : '';
    return rowsOf(`${code(name)}${mark}`, methodsOf(name), roles);
  });
  return ['| permission | methods | roles |', '|---|---|---|', ...rows, ''].join('\n');
}

/** A row, and further ones for what does not fit into it. */
function rowsOf(name: string, methods: readonly string[], roles: readonly string[]): string {
  const row = (cells: readonly string[]) => `| ${cells.join(' | ')} |`.replaceAll('|  |', '| |');
  const whole = row([name, methods.join(', '), roles.join(', ')]);
  if (whole.length <= COLUMNS) return whole;
  const [most, each] = [3, 1];
  const rows = Math.max(Math.ceil(roles.length / most), Math.ceil(methods.length / each));
  return Array.from({ length: rows }, (_, index) =>
    row([
      index === 0 ? name : '',
      methods.slice(index * each, (index + 1) * each).join(', '),
      roles.slice(index * most, (index + 1) * most).join(', '),
    ]),
  ).join('\n');
}

test('docs/access.md lists what the code has: roles, permissions, methods (UPDATE=1 writes)', () => {
  const names = Object.keys(PERMISSIONS).filter(isPermission);
  assertWritten('docs/access.md', 'test/documents/access.test.ts', [
    { mark: 'roles', content: `${rolesList()}\n` },
    { mark: 'permissions', content: permissionsTable(names.filter((name) => !isOfSystem(name))) },
    { mark: 'system permissions', content: permissionsTable(names.filter(isOfSystem)) },
    { mark: 'any caller', content: `${item(methodsOf(ANY_CALLER).map(code).join(', '))}\n` },
  ]);
});

test('every permission is needed by a method, or asked for by a handler', () => {
  const asked: readonly Permission[] = [
    'data.reEncryptFrom',
    'roleBindings.createForAllTenants',
    'approvalRules.updateForAllTenants',
    'auditEntries.listForAllTenants',
    'passkeys.list',
  ];
  const idle = Object.keys(PERMISSIONS)
    .filter(isPermission)
    .filter((name) => methodsOf(name).length === 0 && !asked.includes(name));
  assert.deepEqual(idle, []);
});
