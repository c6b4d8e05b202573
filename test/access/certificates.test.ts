/** Whom client certificates stand for, and how a deny list names them. */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { describe, test } from 'node:test';
import type { PeerCertificate } from 'node:tls';
import { createCertificateAuthority } from '../../dev/certificates.ts';
import {
  type CertificatePrincipal,
  clientCertificate,
  principalOf,
} from '../../src/access/certificates.ts';
import { parseDenyList } from '../../src/access/deny-list.ts';

/** OU=a,OU=b,CN=x */
const PLAIN = `-----BEGIN CERTIFICATE-----
MIIBnDCCAUOgAwIBAgIUZT+hK+45t4h5Bh+gM5O8fL0O1r8wCgYIKoZIzj0EAwIw
JDEKMAgGA1UECwwBYTEKMAgGA1UECwwBYjEKMAgGA1UEAwwBeDAeFw0yNjExMjUy
MzA0MTNaFw0yNjExMjYyMzA0MTNaMCQxCjAIBgNVBAsMAWExCjAIBgNVBAsMAWIx
CjAIBgNVBAMMAXgwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASihrGKbUeyJ7ZR
R0meeUf5reQgsaR2zTNTaf8kXzdnVlhADodeqc2G7qWqlaNRJXvNTgxzpMpDTrbk
B4umgEsIo1MwUTAdBgNVHQ4EFgQUuyq+PgARLjZWV5eGMUe83QdmNc8wHwYDVR0j
BBgwFoAUuyq+PgARLjZWV5eGMUe83QdmNc8wDwYDVR0TAQH/BAUwAwEB/zAKBggq
hkjOPQQDAgNHADBEAiA2VGhUVwBxMIM9Y1+GXm/NoiqRoja6Q3GzIvGbPgVkLgIg
YCJV0/cL57qlrtR5HCRgqpPx/RhtOdNcrsBS1Mo92as=
-----END CERTIFICATE-----`;
/** OU=a,CN=x,OU=b */
const RETURNING = `-----BEGIN CERTIFICATE-----
MIIBnDCCAUOgAwIBAgIUHR+NICFxibGGtQ8jdH1k0L9lgQowCgYIKoZIzj0EAwIw
JDEKMAgGA1UECwwBYTEKMAgGA1UEAwwBeDEKMAgGA1UECwwBYjAeFw0yNjExMjUy
MzA0MTNaFw0yNjExMjYyMzA0MTNaMCQxCjAIBgNVBAsMAWExCjAIBgNVBAMMAXgx
CjAIBgNVBAsMAWIwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASihrGKbUeyJ7ZR
R0meeUf5reQgsaR2zTNTaf8kXzdnVlhADodeqc2G7qWqlaNRJXvNTgxzpMpDTrbk
B4umgEsIo1MwUTAdBgNVHQ4EFgQUuyq+PgARLjZWV5eGMUe83QdmNc8wHwYDVR0j
BBgwFoAUuyq+PgARLjZWV5eGMUe83QdmNc8wDwYDVR0TAQH/BAUwAwEB/zAKBggq
hkjOPQQDAgNHADBEAiBfWV9kVCv15rWJJjx9ujICH4I+70+ACEYfUVcF8SGz5AIg
cgVW9ly2/Ep9dwusvRqXBAdBjogMiHoIkjOUWzPH3i0=
-----END CERTIFICATE-----`;
/** OU=a+CN=x,OU=b */
const ON_ONE_LEVEL = `-----BEGIN CERTIFICATE-----
MIIBmDCCAT+gAwIBAgIUKcO1aDq2JqXF2bbRpZgDFMsqCA0wCgYIKoZIzj0EAwIw
IjEUMAgGA1UEAwwBeDAIBgNVBAsMAWExCjAIBgNVBAsMAWIwHhcNMjYxMTI1MjMw
NDEzWhcNMjYxMTI2MjMwNDEzWjAiMRQwCAYDVQQDDAF4MAgGA1UECwwBYTEKMAgG
A1UECwwBYjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABKKGsYptR7IntlFHSZ55
R/mt5CCxpHbNM1Np/yRfN2dWWEAOh16pzYbupaqVo1Ele81ODHOkykNOtuQHi6aA
SwijUzBRMB0GA1UdDgQWBBS7Kr4+ABEuNlZXl4YxR7zdB2Y1zzAfBgNVHSMEGDAW
gBS7Kr4+ABEuNlZXl4YxR7zdB2Y1zzAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49
BAMCA0cAMEQCIHR7oz0U9qtL94/CTwL8I7QFaC0TvorvB3RT+lQQynkZAiBnAKxT
+O4uEQGOZxM/wAZnFVKQuoqjfnHSi2G86i95bg==
-----END CERTIFICATE-----`;

const callerOf = (peer: Partial<PeerCertificate>) =>
  principalOf(peer as PeerCertificate, 'spiffe-then-subject');

describe('a certificate', () => {
  const subject = { CN: 'x' } as PeerCertificate['subject'];

  test('with one SPIFFE id stands for it', () => {
    const subjectaltname = 'DNS:a.test, URI:spiffe://keyward.test/a, IP Address:127.0.0.1';
    assert.equal(callerOf({ subjectaltname, subject }), 'spiffe://keyward.test/a');
  });

  test('whose other names contain a SPIFFE id doesn’t', () => {
    const evil = [
      'DNS:"x, URI:spiffe://keyward.test/admin"',
      'URI:"https://x, URI:spiffe://keyward.test/admin"',
      'DNS:"\\", URI:spiffe://keyward.test/admin"',
      'URI:https://x',
    ];
    for (const subjectaltname of evil) assert.equal(callerOf({ subjectaltname, subject }), 'CN=x');
  });

  test('with two URIs, or a SPIFFE id that Node has to quote, is known by its subject', () => {
    for (const subjectaltname of [
      'URI:spiffe://keyward.test/a, URI:spiffe://keyward.test/b',
      'URI:"spiffe://keyward.test/a, b"',
    ]) {
      assert.equal(callerOf({ subjectaltname, subject }), 'CN=x');
    }
  });

  test('whose subject’s values look like more of it stays itself, and no value forges a line', () => {
    const one = callerOf({ subject: { CN: 'a,O=b' } as never });
    const two = callerOf({ subject: { CN: 'a', O: 'b' } as never });
    assert.notEqual(one, two);
    assert.equal(two, 'CN=a,O=b');
    assert.equal(callerOf({ subject: { CN: ['a', 'b\n'] } as never }), 'CN=a,CN=b\\0a');
    assert.equal(callerOf({ subject: {} as never }), undefined);
  });
});

describe('a certificate whose subject Node shows like another’s', () => {
  const nameOf = (pem: string) =>
    clientCertificate(new X509Certificate(pem).toLegacyObject() as PeerCertificate, 'subject').name;

  test('stands for nobody: attributes that return, and several on one level', () => {
    assert.equal(nameOf(PLAIN), 'OU=a,OU=b,CN=x');
    assert.equal(nameOf(RETURNING), undefined);
    assert.equal(nameOf(ON_ONE_LEVEL), undefined);
  });
});

describe('the configured kind of name', () => {
  const peer = {
    subject: { CN: 'x' },
    subjectaltname: 'DNS:Batch.test, DNS:b.test, URI:spiffe://keyward.test/a',
  } as PeerCertificate;
  const bare = { subject: { CN: 'x' } } as PeerCertificate;

  test('is the only one that is looked at', () => {
    assert.equal(principalOf(peer, 'subject'), 'CN=x');
    assert.equal(principalOf(peer, 'spiffe'), 'spiffe://keyward.test/a');
    assert.equal(principalOf(peer, 'dns'), 'dns:batch.test');
  });

  test('has to be there, or the certificate stands for nobody', () => {
    assert.equal(principalOf(bare, 'spiffe'), undefined);
    assert.equal(principalOf(bare, 'dns'), undefined);
    assert.equal(principalOf({ ...peer, subject: {} as never }, 'subject'), undefined);
    const quoted = { ...bare, subjectaltname: 'DNS:"a.test, DNS:b.test"' };
    assert.equal(principalOf(quoted, 'dns'), undefined);
  });
});

describe('a certificate with a long name', () => {
  const authority = createCertificateAuthority('some CA');
  /**
   * Whom a certificate with that subject and these URIs stands for, as the handshake would show it.
   */
  const nameOf = (subject: string, uris: string[], principal: CertificatePrincipal) => {
    const { certPem } = authority.issue({ subject, usage: 'client', uris });
    const peer = new X509Certificate(certPem).toLegacyObject() as PeerCertificate;
    return clientCertificate(peer, principal).name;
  };
  const idOf = (bytes: number) => `spiffe://keyward.test/${'a'.repeat(bytes - 22)}`;

  test('stands for it up to what a SPIFFE id may have, and for nobody from there on', () => {
    for (const principal of ['spiffe', 'spiffe-then-subject'] as const) {
      assert.equal(nameOf('x', [idOf(2_048)], principal), idOf(2_048));
      assert.equal(nameOf('x', [idOf(2_049)], principal), undefined);
      assert.equal(nameOf('x', [idOf(60_000)], principal), undefined);
    }
  });

  test('has a trust domain of up to 255 bytes', () => {
    const id = (length: number) => `spiffe://${'a'.repeat(length)}/${'b'.repeat(300)}`;
    assert.equal(nameOf('x', [id(255)], 'spiffe'), id(255));
    assert.equal(nameOf('x', [id(256)], 'spiffe'), undefined);
    assert.equal(nameOf('x', [`spiffe://${'a'.repeat(256)}`], 'spiffe-then-subject'), undefined);
  });

  test('is bounded as a subject as well, as it is shown', () => {
    assert.equal(nameOf('a'.repeat(2_045), [], 'subject'), `CN=${'a'.repeat(2_045)}`);
    assert.equal(nameOf('a'.repeat(2_046), [], 'subject'), undefined);
    assert.equal(nameOf(','.repeat(1_100), [], 'spiffe-then-subject'), undefined);
    assert.equal(nameOf('é'.repeat(1_100), [], 'spiffe-then-subject'), undefined);
  });
});

describe('a deny list', () => {
  const { certPem } = createCertificateAuthority('some CA').issue({
    subject: 'x',
    usage: 'client',
  });
  const x509 = new X509Certificate(certPem);
  const { denyKeys } = clientCertificate(x509.toLegacyObject() as PeerCertificate, 'subject');
  const denies = (text: string) => denyKeys.some((key) => parseDenyList(text).has(key));

  test('names a certificate by its SHA-256, with colons or without', () => {
    assert.ok(denies(`# revoked\n\n${x509.fingerprint256}   # a laptop\n`));
    assert.ok(denies(x509.fingerprint256.replaceAll(':', '').toLowerCase()));
    assert.ok(!denies('00'.repeat(32)));
  });

  test('names a certificate by its serial number and issuer, with leading zeros or without', () => {
    assert.ok(denies(`${x509.serialNumber}@CN=some CA`));
    assert.ok(denies(`00${x509.serialNumber.toLowerCase()}@CN=some CA`));
    assert.ok(!denies(`${x509.serialNumber}@CN=another CA`));
  });

  test('with lines that are neither is refused whole, and each is named', () => {
    assert.throws(
      () => parseDenyList(`${x509.fingerprint256}\n${x509.fingerprint256.slice(1)}\n\nCN=x\n`),
      /line 2 .*\nline 4 /,
    );
  });
});
