# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# The options that users see.
{ lib }:
options:
lib.filter (
  option:
  option.visible
  && !option.internal
  && !lib.elem "_module" option.loc
  && !lib.elem "_freeformOptions" option.loc
) (lib.optionAttrSetToDocList options)
