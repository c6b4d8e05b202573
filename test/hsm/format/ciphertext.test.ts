/**
 * Ciphertext format 1 as properties: what was sealed opens, and nothing else does, however little
 * it differs.
 *
 * Material is in software here; what is fixed to the byte is in test/golden.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import {
  type Binding,
  CIPHERTEXT_OVERHEAD,
  CONTEXT_DIGEST_BYTES,
  type Epochs,
  MAX_PLAINTEXT_BYTES,
  NO_SUBJECT,
  open,
  PURPOSE,
  parseHeader,
  seal,
  sealAll,
} from '../../../src/hsm/ciphertext.ts';
import { MATERIAL_BYTES } from '../../../src/hsm/key-version.ts';
import { idToBytes, newId, UUID_BYTES } from '../../../src/ids.ts';
import {
  bytes,
  DECRYPTION_FAILED,
  hmacOf,
  type Message,
  message,
  openMessage,
  PURPOSES,
  sealMessage,
  shortMessage,
  uuid,
  versionNumber,
} from './sealing.ts';

/**
 * Asserts that the bytes open neither as what they are not nor with another answer than the one.
 */
function refuses(ciphertext: Buffer, sealed: Message, what: string): void {
  assert.throws(
    () => open(checked(ciphertext, sealed), sealed.binding, hmacOf(sealed.material)),
    DECRYPTION_FAILED,
    what,
  );
}

function checked(ciphertext: Buffer, { header }: Message): Buffer {
  parseHeader(ciphertext, [header.purpose]);
  return ciphertext;
}

function flipped(ciphertext: Buffer, bit: number): Buffer {
  const copy = Buffer.from(ciphertext);
  copy.writeUInt8(copy.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
  return copy;
}

describe('a ciphertext', () => {
  it('opens to what was sealed, for any plaintext, binding, purpose, key and version', () => {
    fc.assert(
      fc.property(message, (sealed) => {
        const ciphertext = sealMessage(sealed);
        assert.deepEqual(openMessage(ciphertext, sealed), sealed.plaintext);
        assert.equal(ciphertext.length, sealed.plaintext.length + CIPHERTEXT_OVERHEAD);
      }),
    );
  });

  it('case 46: holds 0, 1 and 65,536 bytes, and one of 65,537 is refused before anything is derived', () => {
    const [sealed] = fc.sample(message, { numRuns: 1, seed: 46 });
    assert.ok(sealed);
    for (const length of [0, 1, MAX_PLAINTEXT_BYTES]) {
      const plaintext = Buffer.alloc(length, 0x61);
      assert.deepEqual(openMessage(sealMessage({ ...sealed, plaintext }), sealed), plaintext);
    }
    const tooLong = Buffer.alloc(CIPHERTEXT_OVERHEAD + MAX_PLAINTEXT_BYTES + 1);
    sealMessage({ ...sealed, plaintext: Buffer.alloc(0) }).copy(tooLong);
    assert.throws(() => parseHeader(tooLong, PURPOSES), DECRYPTION_FAILED);
  });

  it('has its own salt, IV, commitment and tag each time, also for the same plaintext', () => {
    fc.assert(
      fc.property(shortMessage, (sealed) => {
        const [first, second] = [sealMessage(sealed), sealMessage(sealed)];
        for (const [start, end] of [
          [24, 56],
          [56, 68],
          [68, 100],
          [-16, undefined],
        ] as const) {
          assert.notDeepEqual(first.subarray(start, end), second.subarray(start, end));
        }
      }),
    );
  });

  it('leaves the plaintext that it was given as it was', () => {
    const [sealed] = fc.sample(message, { numRuns: 1, seed: 1 });
    assert.ok(sealed);
    const before = Buffer.from(sealed.plaintext);
    sealMessage(sealed);
    assert.deepEqual(sealed.plaintext, before);
  });
});

describe('DECRYPTION_FAILED, and no plaintext', () => {
  it('case 49: when any one bit is flipped', () => {
    fc.assert(
      fc.property(shortMessage, (sealed) => {
        const ciphertext = sealMessage(sealed);
        for (let bit = 0; bit < ciphertext.length * 8; bit++) {
          refuses(flipped(ciphertext, bit), sealed, `bit ${bit}`);
        }
      }),
      { numRuns: 10 },
    );
  });

  it('case 49: when any bit of a long ciphertext is flipped', () => {
    fc.assert(
      fc.property(message, fc.nat(), (sealed, place) => {
        const ciphertext = sealMessage(sealed);
        refuses(flipped(ciphertext, place % (ciphertext.length * 8)), sealed, 'one bit');
      }),
    );
  });

  it('case 50, 51: when it is cut at any length, also in its tag', () => {
    fc.assert(
      fc.property(shortMessage, (sealed) => {
        const ciphertext = sealMessage(sealed);
        for (let length = 0; length < ciphertext.length; length++) {
          refuses(ciphertext.subarray(0, length), sealed, `cut to ${length}`);
          refuses(ciphertext.subarray(ciphertext.length - length), sealed, `the last ${length}`);
        }
      }),
      { numRuns: 10 },
    );
  });

  it('case 50: when one byte is added anywhere', () => {
    fc.assert(
      fc.property(shortMessage, bytes(1), (sealed, one) => {
        const ciphertext = sealMessage(sealed);
        for (let at = 0; at <= ciphertext.length; at++) {
          const longer = Buffer.concat([ciphertext.subarray(0, at), one, ciphertext.subarray(at)]);
          refuses(longer, sealed, `a byte at ${at}`);
        }
      }),
      { numRuns: 10 },
    );
  });

  it('when it is random bytes of any length', () => {
    const any = fc.uint8Array({ maxLength: 400 }).map((array) => Buffer.from(array));
    fc.assert(fc.property(shortMessage, any, (sealed, noise) => refuses(noise, sealed, 'noise')));
  });

  const changes: Record<keyof Binding, number> = {
    tenant: UUID_BYTES,
    subject: UUID_BYTES,
    contextDigest: CONTEXT_DIGEST_BYTES,
  };
  for (const [part, length] of Object.entries(changes)) {
    it(`case 52: with another ${part}`, () => {
      fc.assert(
        fc.property(message, bytes(length), (sealed, other) => {
          fc.pre(!other.equals(sealed.binding[part as keyof Binding]));
          const binding = { ...sealed.binding, [part]: other };
          const ciphertext = sealMessage(sealed);
          assert.throws(
            () => open(ciphertext, binding, hmacOf(sealed.material)),
            DECRYPTION_FAILED,
          );
        }),
      );
    });
  }

  it('with other material, also if it differs in one bit', () => {
    fc.assert(
      fc.property(message, bytes(MATERIAL_BYTES), fc.nat(511), (sealed, other, bit) => {
        fc.pre(!other.equals(sealed.material));
        const ciphertext = sealMessage(sealed);
        for (const material of [other, flipped(sealed.material, bit)]) {
          assert.throws(
            () => open(ciphertext, sealed.binding, hmacOf(material)),
            DECRYPTION_FAILED,
          );
        }
      }),
    );
  });

  it('when another key or version of the same material is written into it', () => {
    fc.assert(
      fc.property(message, uuid(), versionNumber, (sealed, keyId, version) => {
        const { header } = sealed;
        fc.pre(keyId !== header.keyId && version !== header.version);
        const [forKey, forVersion] = [sealMessage(sealed), sealMessage(sealed)];
        idToBytes(keyId).copy(forKey, 4);
        forVersion.writeUInt32BE(version, 20);
        refuses(forKey, sealed, 'key');
        refuses(forVersion, sealed, 'version');
      }),
    );
  });

  it('case 54: with any tenant, key and version but those that it was sealed for', () => {
    const places = [newId(), newId()].flatMap((tenant) =>
      [newId(), newId()].flatMap((keyId) =>
        [1, 2].map((version) => ({
          header: { purpose: PURPOSE.payload, keyId, version } as Message['header'],
          binding: {
            tenant: idToBytes(tenant),
            subject: NO_SUBJECT,
            contextDigest: Buffer.alloc(32),
          },
          // The same material everywhere, so that nothing but the binding keeps them apart.
          material: Buffer.alloc(MATERIAL_BYTES, 0x6b),
          plaintext: Buffer.from('of one place'),
        })),
      ),
    );
    for (const [row, sealed] of places.entries()) {
      const ciphertext = sealMessage(sealed);
      for (const [column, place] of places.entries()) {
        if (row === column) assert.deepEqual(openMessage(ciphertext, place), sealed.plaintext);
        else assert.equal(attempt(ciphertext, place), undefined, `${row} opened at ${column}`);
      }
    }
  });

  it('case 55: with the commitment of other material, also when the tag verifies', () => {
    fc.assert(
      fc.property(message, bytes(32), (sealed, other) => {
        // An HMAC that answers with the right key and another commitment makes what a forger would.
        const forged = seal(sealed.header, sealed.binding, sealed.plaintext, (input) =>
          Buffer.concat([hmacOf(sealed.material)(input).subarray(0, 32), other]),
        );
        refuses(forged, sealed, 'the commitment');
      }),
    );
  });

  it('with the commitment right and the key another', () => {
    fc.assert(
      fc.property(message, bytes(32), (sealed, other) => {
        const forged = seal(sealed.header, sealed.binding, sealed.plaintext, (input) =>
          Buffer.concat([other, hmacOf(sealed.material)(input).subarray(32)]),
        );
        refuses(forged, sealed, 'the key');
      }),
    );
  });

  it('case 60: in one text, whatever was wrong', () => {
    const [sealed] = fc.sample(
      shortMessage.filter(({ plaintext }) => plaintext.length > 0),
      { numRuns: 1, seed: 60 },
    );
    assert.ok(sealed);
    const ciphertext = sealMessage(sealed);
    // One bit each of format, suite, purpose, zero, key, version, salt, IV, commitment, encrypted
    // bytes and tag.
    const bits = [0, 8, 16, 24, 32, 160, 192, 448, 544, 800, ciphertext.length * 8 - 1];
    const texts = bits.map((bit) => {
      try {
        open(checked(flipped(ciphertext, bit), sealed), sealed.binding, hmacOf(sealed.material));
      } catch (error) {
        if (error instanceof Error)
          return `${error.name}: ${error.message} (${String(error.cause)})`;
      }
      return assert.fail(`bit ${bit} opened`);
    });
    assert.equal(new Set(texts).size, 1, texts.join('\n'));
  });
});

/** What opens, or undefined for what is refused as it must be. */
function attempt(ciphertext: Buffer, place: Message): Buffer | undefined {
  try {
    return openMessage(ciphertext, place);
  } catch (error) {
    assert.ok(error instanceof Error);
    assert.equal('reason' in error && error.reason, 'DECRYPTION_FAILED');
    return undefined;
  }
}

describe('a header', () => {
  it('says what the ciphertext was sealed as', () => {
    fc.assert(
      fc.property(message, (sealed) => {
        assert.deepEqual(parseHeader(sealMessage(sealed), PURPOSES), sealed.header);
      }),
    );
  });

  it('that parses encodes back to the same bytes', () => {
    const head = fc.tuple(
      fc.constantFrom(0, 1, 2),
      fc.constantFrom(0, 1, 2, 3),
      fc.integer({ min: 0, max: 4 }),
      fc.constantFrom(0, 0, 0, 1),
    );
    let parsed = 0;
    fc.assert(
      fc.property(head, bytes(20), bytes(CIPHERTEXT_OVERHEAD - 24), (start, named, rest) => {
        const ciphertext = Buffer.concat([Buffer.from(start), named, rest]);
        const header = attemptHeader(ciphertext);
        if (header === undefined) return;
        parsed++;
        const again = Buffer.alloc(24);
        again.set([1, ciphertext[1] ?? 0, header.purpose, 0]);
        idToBytes(header.keyId).copy(again, 4);
        again.writeUInt32BE(header.version, 20);
        assert.deepEqual(again, ciphertext.subarray(0, 24));
      }),
      { numRuns: 2_000 },
    );
    assert.ok(parsed > 20, `only ${parsed} of the headers parsed`);
  });

  it('case 53: of an unknown format, suite or purpose, with byte 3 set or version 0 is refused', () => {
    const [sealed] = fc.sample(message, { numRuns: 1, seed: 53 });
    assert.ok(sealed);
    const ciphertext = sealMessage(sealed);
    const allowed = [[1], [1, 2], PURPOSES, [0]] as const;
    for (const [at, values] of allowed.entries()) {
      for (let value = 0; value < 256; value++) {
        const changed = Buffer.from(ciphertext);
        changed.writeUInt8(value, at);
        if ((values as readonly number[]).includes(value)) parseHeader(changed, PURPOSES);
        else
          assert.throws(
            () => parseHeader(changed, PURPOSES),
            DECRYPTION_FAILED,
            `byte ${at}: ${value}`,
          );
      }
    }
    const versionZero = Buffer.from(ciphertext);
    versionZero.writeUInt32BE(0, 20);
    assert.throws(() => parseHeader(versionZero, PURPOSES), DECRYPTION_FAILED);
    const highest = Buffer.from(ciphertext);
    highest.writeUInt32BE(2 ** 32 - 1, 20);
    assert.equal(parseHeader(highest, PURPOSES).version, 2 ** 32 - 1);
  });

  it('of a purpose that is not asked for is refused', () => {
    fc.assert(
      fc.property(message, fc.subarray(PURPOSES), (sealed, asked) => {
        const ciphertext = sealMessage(sealed);
        if (asked.includes(sealed.header.purpose)) parseHeader(ciphertext, asked);
        else assert.throws(() => parseHeader(ciphertext, asked), DECRYPTION_FAILED);
      }),
    );
  });

  it('in the middle of a larger buffer is read from its own bytes', () => {
    fc.assert(
      fc.property(message, bytes(7), (sealed, before) => {
        const whole = Buffer.concat([before, sealMessage(sealed)]);
        assert.deepEqual(parseHeader(whole.subarray(7), PURPOSES), sealed.header);
        assert.deepEqual(openMessage(whole.subarray(7), sealed), sealed.plaintext);
      }),
    );
  });
});

describe('the messages of an epoch', () => {
  const one = shortMessage.map(
    ({ header: { purpose }, binding: { subject, contextDigest }, plaintext }) => ({
      purpose,
      subject,
      contextDigest,
      plaintext,
    }),
  );
  const several = fc.array(one, { minLength: 2, maxLength: 20 });
  /** Seals them under the version and the tenant of `of`, counting what is asked of the token. */
  const sealThem = (
    { header, binding, material }: Message,
    messages: Parameters<typeof sealAll>[2],
  ) => {
    const asked: Buffer[] = [];
    const hmac = (input: Buffer) => {
      asked.push(Buffer.from(input));
      return hmacOf(material)(input);
    };
    return { ciphertexts: sealAll(header, binding.tenant, messages, hmac), asked };
  };

  it('open each as what it was, whatever purposes and contexts they have, for one HMAC of the token', () => {
    fc.assert(
      fc.property(shortMessage, several, (of, messages) => {
        const { ciphertexts, asked } = sealThem(of, messages);
        assert.equal(asked.length, 1);
        for (const [index, { purpose, plaintext, ...binding }] of messages.entries()) {
          const place = {
            header: { ...of.header, purpose },
            binding: { ...binding, tenant: of.binding.tenant },
            material: of.material,
          };
          assert.deepEqual(openMessage(ciphertexts[index] as Buffer, place), plaintext);
        }
      }),
    );
  });

  it('have one salt and numbers of their own, and no two have one commitment', () => {
    fc.assert(
      fc.property(shortMessage, one, fc.integer({ min: 2, max: 1_000 }), (of, message, count) => {
        // The same message each time: nothing but the number tells them apart.
        const { ciphertexts } = sealThem(of, Array(count).fill(message));
        const distinct = (start: number, end: number) =>
          new Set(ciphertexts.map((each) => each.toString('hex', start, end))).size;
        assert.equal(distinct(0, 64), 1);
        assert.equal(distinct(68, 100), count);
        assert.deepEqual(
          ciphertexts.map((each) => each.readUInt32BE(64)),
          ciphertexts.map((_, index) => index),
        );
      }),
      { numRuns: 20 },
    );
  });

  it('have another salt than every other epoch', () => {
    fc.assert(
      fc.property(shortMessage, several, (of, messages) => {
        const [first, second] = [sealThem(of, messages), sealThem(of, messages)];
        assert.notDeepEqual(
          first.ciphertexts[0]?.subarray(24, 56),
          second.ciphertexts[0]?.subarray(24, 56),
        );
      }),
    );
  });

  it('open together for one HMAC of the token for each epoch, and those of another epoch do not mix', () => {
    fc.assert(
      fc.property(shortMessage, several, (of, messages) => {
        const epochs: Epochs = new Map();
        let asked = 0;
        const hmac = (input: Buffer) => {
          asked += 1;
          return hmacOf(of.material)(input);
        };
        for (const { ciphertexts } of [sealThem(of, messages), sealThem(of, messages)])
          for (const [index, { plaintext, purpose: _, ...binding }] of messages.entries()) {
            const whole = { ...binding, tenant: of.binding.tenant };
            const ciphertext = ciphertexts[index] as Buffer;
            assert.deepEqual(open(ciphertext, whole, hmac, epochs), plaintext);
            const elsewhere = { ...whole, tenant: Buffer.alloc(UUID_BYTES, 0x5a) };
            fc.pre(!elsewhere.tenant.equals(whole.tenant));
            assert.throws(
              () => open(ciphertext, elsewhere, hmacOf(of.material), new Map(epochs)),
              DECRYPTION_FAILED,
            );
          }
        assert.equal(asked, 2);
      }),
    );
  });

  it('leave no copy of the epoch’s key that they were derived under', () => {
    const [of] = fc.sample(shortMessage, { numRuns: 1, seed: 2 });
    assert.ok(of);
    const given: Buffer[] = [];
    const hmac = (input: Buffer) => {
      const derived = hmacOf(of.material)(input);
      given.push(derived);
      return derived;
    };
    const { tenant, ...own } = of.binding;
    const message = { ...own, purpose: PURPOSE.payload, plaintext: Buffer.from('x') };
    const [ciphertext] = sealAll(of.header, tenant, [message], hmac);
    open(ciphertext as Buffer, of.binding, hmac);
    assert.equal(given.length, 2);
    for (const derived of given) assert.deepEqual(derived, Buffer.alloc(64));
  });

  it('are none for no messages, and too long ones are refused', () => {
    const [of] = fc.sample(message, { numRuns: 1, seed: 3 });
    assert.ok(of);
    assert.deepEqual(sealThem(of, []), { ciphertexts: [], asked: [] });
    const { subject, contextDigest } = of.binding;
    const plaintext = Buffer.alloc(MAX_PLAINTEXT_BYTES + 1);
    const tooLong = { purpose: PURPOSE.payload, subject, contextDigest, plaintext };
    assert.throws(() => sealThem(of, [tooLong]), RangeError);
  });
});

function attemptHeader(ciphertext: Buffer) {
  try {
    return parseHeader(ciphertext, PURPOSES);
  } catch {
    return undefined;
  }
}
