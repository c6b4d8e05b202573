/** A program in the place of a browser: opens a URL of the development provider, and signs in. */
import { Browser } from './browser.ts';

const [url = '', person = ''] = process.argv.slice(2);
await fetch(await new Browser(new URL(url).origin).signIn(url, { person }));
