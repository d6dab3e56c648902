/* license: see LICENSE */
