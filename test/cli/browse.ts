/**
 * A program in the place of a browser: opens a page that goes on to the development provider, and
 * signs in there.
 */
import { readFileSync } from 'node:fs';
import { Browser } from './browser.ts';

const [page = '', person = ''] = process.argv.slice(2);
const [, link = ''] = /href="([^"]+)"/.exec(readFileSync(new URL(page), 'utf8')) ?? [];
const url = link.replaceAll('&amp;', '&');
await fetch(await new Browser(new URL(url).origin).signIn(url, { person }));
