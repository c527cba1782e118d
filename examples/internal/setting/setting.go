// Package setting reads what both examples take from the environment.
package setting

import (
	"errors"
	"strings"
)

// Features reads POLARGATE_FEATURES: "benefit=feature,feature;benefit=…". A
// benefit without features is accepted, and unlocks none.
func Features(text string) (map[string][]string, error) {
	features := make(map[string][]string)
	for part := range strings.SplitSeq(text, ";") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		benefit, list, ok := strings.Cut(part, "=")
		if !ok {
			return nil, errors.New("POLARGATE_FEATURES must look like benefit=feature,feature;benefit=feature")
		}
		benefit = strings.TrimSpace(benefit)
		names := features[benefit]
		for name := range strings.SplitSeq(list, ",") {
			if name = strings.TrimSpace(name); name != "" {
				names = append(names, name)
			}
		}
		features[benefit] = names
	}
	return features, nil
}
