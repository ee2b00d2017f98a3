"""What a page needs for live events beside the stream: ``sidearm.js``, and its URL."""

from .module import install as install
from .module import sidearm_js_url as sidearm_js_url
