/**
 * Resource names: what is formatted parses to the same parts, what parses formats to the same text,
 * and what is only almost a name is none.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import {
  formatKeyName,
  formatKeyVersionName,
  formatTenantName,
  ID_PATTERN,
  parseKeyName,
  parseKeyVersionName,
  parseTenantName,
  SYSTEM_TENANT,
} from '../../src/names.ts';

const LETTERS = 'abcdefghijklmnopqrstuvwxyz';
const unit = fc.constantFrom(...LETTERS, ...'0123456789', '-');

/**
 * The grammar in words of our own: a letter, up to 61 letters, digits and hyphens, and a letter or
 * digit.
 */
const id = fc
  .tuple(
    fc.constantFrom(...LETTERS),
    fc.option(
      fc.tuple(fc.string({ unit, maxLength: 61 }), fc.constantFrom(...LETTERS, ...'0123456789')),
    ),
  )
  .map(([first, rest]) => first + (rest?.join('') ?? ''));

/** What the database can hold. */
const MAX_VERSION = 2 ** 31 - 1;
const versionNumber = fc.integer({ min: 1, max: MAX_VERSION });

/** Texts near names: their parts, and what might be taken for them. */
const nearName = fc
  .array(
    fc.oneof(
      id,
      fc.constantFrom(
        'tenants',
        'keys',
        'versions',
        '',
        ' ',
        'A',
        '-',
        'a-',
        '1',
        'é',
        '\n',
        '%2f',
        '..',
      ),
    ),
    { maxLength: 6 },
  )
  .map((parts) => parts.join('/'));

const NOT_IDS = [
  ...[
    '',
    '-',
    '-a',
    'a-',
    '1',
    '1a',
    'A',
    'aB',
    'a_b',
    'a.b',
    'a b',
    ' a',
    'a ',
    'a\n',
    '\na',
    'a\u0000',
    'a\r',
  ],
  ...[
    'é',
    'a\u0301',
    'ａ',
    'a\u202eb',
    'a\u200b',
    'ſ',
    'K',
    '*',
    '%61',
    '.',
    '..',
    `a${'b'.repeat(63)}`,
  ],
  ...["a'b", 'a"b', 'a;b', 'a\\b', '__proto__', 'a\ufffd', 'a\ud800'],
];

describe('a name', () => {
  it('that is formatted parses to its parts', () => {
    fc.assert(
      fc.property(id, id, versionNumber, (tenant, key, version) => {
        assert.deepEqual(parseTenantName(formatTenantName({ tenant })), { tenant });
        assert.deepEqual(parseKeyName(formatKeyName({ tenant, key })), { tenant, key });
        const name = formatKeyVersionName({ tenant, key }, version);
        assert.deepEqual(parseKeyVersionName(name), { tenant, key, version });
      }),
      { numRuns: 500 },
    );
  });

  it('that parses formats to the same text', () => {
    let parsed = 0;
    fc.assert(
      fc.property(nearName, (text) => {
        const tenant = parseTenantName(text);
        const key = parseKeyName(text);
        if (tenant) assert.equal(formatTenantName(tenant), text);
        if (key) assert.equal(formatKeyName(key), text);
        const version = parseKeyVersionName(text);
        if (version) assert.equal(formatKeyVersionName(version, version.version), text);
        if (tenant || key || version) parsed++;
      }),
      { numRuns: 5_000 },
    );
    assert.ok(parsed > 5, `only ${parsed} parsed`);
  });

  it('is of one kind only', () => {
    fc.assert(
      fc.property(id, id, (tenant, key) => {
        assert.equal(parseKeyName(formatTenantName({ tenant })), undefined);
        assert.equal(parseTenantName(formatKeyName({ tenant, key })), undefined);
        assert.equal(parseKeyName(formatKeyVersionName({ tenant, key }, 1)), undefined);
        assert.equal(parseKeyVersionName(formatKeyName({ tenant, key })), undefined);
      }),
    );
  });

  it('differs for every tenant, key and version', () => {
    const part = fc.constantFrom('a', 'b', 'a1', 'keys', 'tenants', 'versions');
    const place = fc.tuple(part, part, fc.integer({ min: 1, max: 12 }));
    fc.assert(
      fc.property(place, place, ([tenantA, keyA, versionA], [tenantB, keyB, versionB]) => {
        const first = formatKeyVersionName({ tenant: tenantA, key: keyA }, versionA);
        const second = formatKeyVersionName({ tenant: tenantB, key: keyB }, versionB);
        const same = tenantA === tenantB && keyA === keyB && versionA === versionB;
        assert.equal(first === second, same);
      }),
    );
    assert.equal(
      formatKeyVersionName({ tenant: 't', key: 'k' }, 4294967295),
      'tenants/t/keys/k/versions/4294967295',
    );
  });

  it('may have parts that are words of names', () => {
    assert.deepEqual(parseTenantName('tenants/tenants'), { tenant: 'tenants' });
    assert.deepEqual(parseKeyName('tenants/keys/keys/tenants'), { tenant: 'keys', key: 'tenants' });
    assert.deepEqual(parseTenantName(`tenants/${SYSTEM_TENANT}`), { tenant: SYSTEM_TENANT });
  });

  it('has parts of 1 to 63 characters', () => {
    for (const length of [1, 2, 62, 63])
      assert.ok(parseTenantName(`tenants/${'a'.repeat(length)}`));
    assert.equal(parseTenantName(`tenants/${'a'.repeat(64)}`), undefined);
  });

  it('case 45: has no part that breaks the rule', () => {
    for (const bad of NOT_IDS) {
      assert.equal(ID_PATTERN.test(bad), false, JSON.stringify(bad));
      assert.equal(parseTenantName(`tenants/${bad}`), undefined, JSON.stringify(bad));
      assert.equal(parseKeyName(`tenants/${bad}/keys/k`), undefined, JSON.stringify(bad));
      assert.equal(parseKeyName(`tenants/t/keys/${bad}`), undefined, JSON.stringify(bad));
    }
  });

  it('has nothing before, behind or between', () => {
    for (const bad of [
      ...[
        '',
        '/',
        'tenants',
        'tenants/',
        '/tenants/t',
        'tenants/t/',
        'tenants//t',
        ' tenants/t',
        'tenants/t\n',
      ],
      ...[
        'Tenants/t',
        'tenant/t',
        'tenants\\t',
        'tenants%2ft',
        '//keyward/tenants/t',
        'tenants/t/keys',
      ],
    ]) {
      assert.equal(parseTenantName(bad), undefined, JSON.stringify(bad));
    }
    for (const bad of [
      ...[
        'tenants/t/keys',
        'tenants/t/keys/',
        'tenants/t/keys/k/',
        'tenants/t//keys/k',
        'keys/k',
        'tenants/keys/k',
      ],
      ...[
        '/tenants/t/keys/k',
        'tenants/t/Keys/k',
        'tenants/t/keys/k/versions/1',
        'tenants/t/keys/k\n',
        'k',
      ],
      ...['tenants/t/keys/../keys/k', 'tenants/t/keys/k/x', 'keys/t/tenants/k'],
    ]) {
      assert.equal(parseKeyName(bad), undefined, JSON.stringify(bad));
    }
  });

  it('of a version has one spelling of a number from 1 to 2^31 - 1', () => {
    const name = (version: string) => `tenants/t/keys/k/versions/${version}`;
    for (const version of [1, 9, 10, MAX_VERSION]) {
      assert.deepEqual(parseKeyVersionName(name(`${version}`)), { tenant: 't', key: 'k', version });
    }
    for (const bad of [
      ...[
        '',
        '0',
        '00',
        '01',
        '-1',
        '+1',
        ' 1',
        '1 ',
        '1\n',
        '1.0',
        '1e3',
        '0x1',
        'NaN',
        'Infinity',
        '１',
        'latest',
      ],
      ...[`${MAX_VERSION + 1}`, '9999999999', '10000000000', '1'.repeat(400), '1/', '1/versions/1'],
    ]) {
      assert.equal(parseKeyVersionName(name(bad)), undefined, JSON.stringify(bad));
    }
    for (const bad of [
      'versions/1',
      '/versions/1',
      'tenants/t/versions/1',
      'tenants/T/keys/k/versions/1',
    ]) {
      assert.equal(parseKeyVersionName(bad), undefined, JSON.stringify(bad));
    }
  });

  it('of 100 KB is none', () => {
    assert.equal(parseTenantName(`tenants/${'a'.repeat(100_000)}`), undefined);
    assert.equal(parseKeyName(`tenants/t/keys/k${'/'.repeat(100_000)}`), undefined);
  });
});
