// The cases of the page, one after the other.

import { after } from 'node:test';

import { endShared } from './fixture.mjs';
import './with_program.mjs';
import './with_mock.mjs';

after(endShared);
