/**
 * Places for connections: what one principal can have of them, and who gives one up for whom.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { networkOf } from '../../../src/faces/transport/connections.ts';
import { Places } from '../../../src/faces/transport/places.ts';

interface Occupant {
  readonly name: string;
  isIdle: boolean;
}

/** A peer from this address comes: it and what it replaced, or undefined when it isn't let in. */
function come(places: Places<Occupant>, address: string, name = address) {
  const verdict = places.forStranger(address);
  if (!verdict.may) return undefined;
  if (verdict.instead !== undefined) places.leave(verdict.instead);
  const occupant = { name, isIdle: true };
  places.enter(occupant, address);
  return { occupant, instead: verdict.instead };
}

/** A peer comes and proves to be this caller. */
function comeAs(places: Places<Occupant>, caller: string, address = caller) {
  const arrival = come(places, address, caller);
  if (arrival === undefined) return undefined;
  const verdict = places.forCaller(caller);
  if (!verdict.may) {
    places.leave(arrival.occupant);
    return undefined;
  }
  if (verdict.instead !== undefined) {
    places.end(verdict.instead);
    places.leave(verdict.instead);
  }
  places.prove(arrival.occupant, caller);
  return { occupant: arrival.occupant, instead: verdict.instead };
}

describe('places', () => {
  test('an address beyond its share replaces its own oldest connection, nobody else’s', () => {
    const places = new Places<Occupant>(16);
    const other = come(places, 'b')?.occupant;
    const own = Array.from({ length: 20 }, () => come(places, 'a'));
    const replaced = own.flatMap((each) => each?.instead ?? []);
    assert.ok(replaced.length > 0);
    assert.ok(!replaced.includes(other as Occupant));
    assert.equal(replaced[0], own[0]?.occupant);
  });

  test('when all are taken the address with most gives way, and never a proven caller to a stranger', () => {
    const places = new Places<Occupant>(16);
    for (let index = 0; index < 4; index += 1) comeAs(places, 'caller');
    for (let index = 0; index < 4; index += 1) come(places, 'many');
    for (let index = 0; index < 8; index += 1) come(places, `one of ${index}`);
    for (let index = 0; index < 3; index += 1) {
      assert.equal(come(places, `new ${index}`)?.instead?.name, 'many');
    }
    for (let index = 0; index < 100; index += 1) {
      assert.notEqual(come(places, `newer ${index}`)?.instead?.name, 'caller');
    }
  });

  test('proven callers leave an eighth to those that have yet to prove who they are', () => {
    const places = new Places<Occupant>(64);
    for (let index = 0; index < 200; index += 1) {
      for (let more = 0; more < 3; more += 1) comeAs(places, `caller ${index}`, 'nat');
    }
    let strangers = 0;
    for (; come(places, `stranger ${strangers}`)?.instead === undefined; strangers += 1);
    assert.equal(strangers, 8);
  });

  test('what is ended gives its place up first', () => {
    const places = new Places<Occupant>(4);
    const [, second] = Array.from({ length: 4 }, (_, index) => come(places, `${index}`)?.occupant);
    places.end(second as Occupant);
    assert.equal(come(places, 'new')?.instead, second);
  });

  test('a connection with a call never gives way to another', () => {
    const places = new Places<Occupant>(32);
    for (;;) {
      const next = comeAs(places, 'busy');
      if (next === undefined) break;
      next.occupant.isIdle = false;
      assert.equal(next.instead, undefined);
    }
    assert.ok(comeAs(places, 'new'));
  });

  test('whoever comes and goes, there are never more than there are places, and a newcomer gets one', () => {
    const names = fc.constantFrom('a', 'b', 'c', 'd', 'e');
    const steps = fc.array(fc.tuple(fc.constantFrom('come', 'prove', 'leave'), names), {
      maxLength: 200,
    });
    fc.assert(
      fc.property(steps, (taken) => {
        const places = new Places<Occupant>(16);
        const there: Occupant[] = [];
        const drop = (gone: Occupant | undefined) => gone && there.splice(there.indexOf(gone), 1);
        for (const [step, name] of taken) {
          if (step === 'leave') {
            const [oldest] = there;
            if (oldest) places.leave(oldest);
            drop(oldest);
          } else {
            const arrival = step === 'come' ? come(places, name) : comeAs(places, name);
            if (arrival === undefined) continue;
            drop(arrival.instead);
            there.push(arrival.occupant);
          }
        }
        assert.ok(comeAs(places, 'newcomer'));
      }),
    );
  });
});

test('an address counts for its host: an IPv6 one for its /64', () => {
  assert.equal(networkOf('192.0.2.7'), '192.0.2.7');
  assert.equal(networkOf('::ffff:192.0.2.7'), '192.0.2.7');
  assert.equal(networkOf('2001:db8:1:2:3:4:5:6'), '2001:db8:1:2::/64');
  assert.equal(networkOf('2001:db8::1'), '2001:db8:0:0::/64');
  assert.equal(networkOf('::1'), '0:0:0:0::/64');
  assert.equal(networkOf('fe80::1:2%eth0'), 'fe80:0:0:0::/64');
});
